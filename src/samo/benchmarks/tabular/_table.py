"""The columns of a file, by name."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..._names import unknown
from ._columns import Column, Floats, Integers, Numbers, Texts
from ._file import read_table

# The markers of missing values of pandas, R, SQL and spreadsheets.
MISSING = (
    *("", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>"),
    *("NaN", "nan", "-nan", "NULL", "null", "None"),
)
# A column is numeric if at least this share of its values are numbers; the others are errors.
_NEARLY_ALL = 0.9
_DAY = 86_400e6  # microseconds


class TableFile:
    """The columns of a file, by name. Columns that are not requested are not converted.

    Args:
        path: The file.
        missing: Markers of missing values in addition to `MISSING`.

    Raises:
        ValueError: If the format of the file is not supported.
        OSError: If it cannot be opened.
    """

    def __init__(self, path: Path, missing: Sequence[str | float]) -> None:
        self.path = path
        self._arrow = read_table(path)
        self._missing = [*MISSING, *map(str, missing)]
        self._missing_numbers = [float(text) for text in map(str, missing) if _is_finite(text)]
        self.names: list[str] = self._arrow.column_names
        self.n_rows: int = self._arrow.num_rows

    def check(self, option: str, name: str) -> str:
        """Returns the name of a column, or raises an error that cites the option.

        Raises:
            ValueError: If the column does not exist.
        """
        if name not in self.names:
            raise ValueError(f"{self.path}: {unknown(f'column in {option},', name, self.names)}")
        return name

    def fault(self, name: str, row: int, what: str) -> ValueError:
        """Makes an error about one value; the message counts the rows below the header from 1."""
        return ValueError(f"{self.path}, column {name!r}, row {row + 1}: {what}")

    def column(self, name: str) -> Column:
        """Returns a column of numbers (dates as days since 1970) or strings, as detected.

        Raises:
            ValueError: If it has another type, infinite values, or a few strings among numbers.
        """
        column = self._converted(name)
        if isinstance(column, Texts):
            share = 1 - column.not_numbers().sum() / max(1, column.present.sum())
            if share >= _NEARLY_ALL:
                raise self._not_a_number(name, column, f"while {share:.1%} of the column are")
        return column

    def numbers(self, name: str) -> Numbers:
        """Returns a column that is declared to be numeric.

        Raises:
            ValueError: If it has another type, strings or infinite values.
        """
        column = self._converted(name)
        if isinstance(column, Texts):
            raise self._not_a_number(name, column, "as its type requires")
        return column

    def texts(self, name: str) -> Texts:
        """Returns a column that is declared to be categorical, numbers converted to strings.

        Raises:
            ValueError: If it has another type, or infinite values.
        """
        column = self._converted(name)
        return column.as_texts() if isinstance(column, Numbers) else column

    def _not_a_number(self, name: str, column: Texts, why: str) -> ValueError:
        faulty = column.not_numbers()
        row, n = int(faulty.argmax()), int(faulty.sum())
        found = column.levels[column.keys[row]]
        return self.fault(
            name,
            row,
            f"{found!r} is not a number, {why}{f' (nor are {n - 1} others)' if n > 1 else ''}. "
            f"Correct the file, or set missing={json.dumps([found])} if it stands for a missing "
            f"value, or types={json.dumps({name: '..'})} if the column is not numeric.",
        )

    def _converted(self, name: str) -> Column:
        import pyarrow as pa
        import pyarrow.compute as pc

        array = self._arrow.column(name).combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        kind, is_ = array.type, pa.types
        if is_.is_boolean(kind) or is_.is_string(kind) or is_.is_large_string(kind):
            return self._from_texts(name, pc.cast(array, pa.string()))
        if is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind):
            return self._from_numbers(name, pc.cast(array, pa.float64(), safe=False))
        if is_.is_null(kind):
            return Numbers(np.full(self.n_rows, np.nan))
        if is_.is_date(kind) or is_.is_timestamp(kind):
            return _days(pc.cast(array, pa.timestamp("us", getattr(kind, "tz", None)), safe=False))
        raise ValueError(
            f"{self.path}: column {name!r} has type {kind}; numbers, strings, dates and Booleans "
            f"are supported. Leave it out: ignore={json.dumps([name])}."
        )

    def _from_texts(self, name: str, array: Any) -> Column:
        import pyarrow as pa
        import pyarrow.compute as pc

        array = pc.utf8_trim_whitespace(array)
        missing = pc.is_in(array, value_set=pa.array(self._missing))
        array = pc.if_else(missing, pa.scalar(None, pa.string()), array)
        try:
            return self._from_numbers(name, pc.cast(array, pa.float64()))
        except pa.ArrowInvalid:
            pass
        try:
            return _days(pc.cast(array, pa.timestamp("us")))
        except pa.ArrowInvalid:
            pass
        encoded = array.dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
        levels = np.array(encoded.dictionary.to_pylist(), dtype=object)
        order = np.argsort(levels)
        rank = np.append(np.argsort(order), -1)  # the code -1 selects the last entry
        return Texts(rank[codes], tuple(levels[order].tolist()))

    def _from_numbers(self, name: str, array: Any) -> Numbers:
        values = np.array(array.to_numpy(zero_copy_only=False), dtype=np.float64)
        values[np.isin(values, self._missing_numbers)] = np.nan
        infinite = np.isinf(values)
        if infinite.any():
            row = int(infinite.argmax())
            raise self.fault(name, row, f"{values[row]} is not a finite number.")
        return Numbers(values)


def standardised(
    table: TableFile, name: str, column: Numbers, train: Integers
) -> tuple[Floats, float]:
    """Standardises a column by mean and standard deviation of the training rows.

    Returns:
        The standardised values (NaN for missing ones) and the standard deviation (1 if all training
        rows are equal).

    Raises:
        ValueError: If a value is too large.
    """
    known = column.at(train)
    scale = 1.0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = np.mean(known.keys[known.present])
        if known.distinct() > 1:
            scale = float(np.std(known.keys[known.present]))
        values = (column.keys - mean) / scale
        faulty = column.present & ~np.isfinite(values.astype(np.float32))
    if faulty.any() or not np.isfinite(scale):
        row = int(np.nanargmax(np.abs(column.keys)))
        raise table.fault(
            name,
            row,
            f"{column.keys[row]:g} cannot be standardised: the training rows have the mean "
            f"{mean:g} and the standard deviation {scale:g}.",
        )
    return values, scale


def _days(array: Any) -> Numbers:
    """Converts times to days since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    microseconds = pc.cast(pc.cast(array, pa.int64()), pa.float64(), safe=False)
    return Numbers(np.asarray(microseconds.to_numpy(zero_copy_only=False)) / _DAY)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
