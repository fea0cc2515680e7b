"""Reads CSV and Parquet files with Arrow; error messages contain the file and the row."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import DataError

_SEPARATORS = ",;\t|"
_LONGEST = 1000  # characters of a column name
_OTHER_FORMATS = {
    b"\x80": "a pickle, which is never loaded because it can run code",
    b"PK\x03\x04": "a zip archive (a spreadsheet, or a file of PyTorch or NumPy)",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"ARROW1": "an Arrow (Feather) file",
}


def read_table(path: Path) -> Any:
    """Reads CSV, optionally compressed (.gz, .bz2, .zst), or Parquet, detected from the content.

    Returns:
        An Arrow table with stripped names. Columns from CSV consist of strings.

    Raises:
        DataError: If the file has another format, is damaged or empty, or two columns have the same
            name.
        OSError: If it cannot be read.
    """
    raw = _content(path)
    head = raw[:4096].to_pybytes()
    if head.startswith(b"PAR1"):
        table = _parquet(path, raw)
    else:
        for magic, what in _OTHER_FORMATS.items():
            if head.startswith(magic):
                raise DataError(f"{path} is {what}. {_EXPECTED}")
        if b"\0" in head:
            raise DataError(f"{path} is not text. {_EXPECTED}")
        table = _csv(path, raw)
    names = [str(name).strip() for name in table.column_names]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise DataError(f"{path} has {names.count(repeated[0])} columns named {repeated[0]!r}.")
    if not table.num_rows:
        raise DataError(f"{path} has {len(names)} column names but no rows.")
    return table.rename_columns(names)


_EXPECTED = "A CSV file (with the columns' names in its first line) or a Parquet file is expected."


def _content(path: Path) -> Any:
    """Reads the bytes of a file, decompressed."""
    import pyarrow as pa

    if not path.is_file():
        found = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}. {_EXPECTED}")
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            return stream.read_buffer()
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error}") from error


def _check_lengths(path: Path, names: Sequence[str]) -> None:
    longest = max(names, key=len, default="")
    if len(longest) > _LONGEST:
        raise DataError(
            f"{path} has a column name of {len(longest)} characters, {longest[:40]!r}..; at most "
            f"{_LONGEST} are allowed. {_EXPECTED}"
        )


def _parquet(path: Path, raw: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(raw)).read()
        table.validate(full=True)
        _check_lengths(path, table.column_names)
    except DataError:
        raise
    # Arrow raises almost any error for a damaged file.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{path} is a damaged Parquet file: {reason}") from error
    return table


def _csv(path: Path, raw: Any) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names, separator = _header(path, raw)
    try:
        table = pacsv.read_csv(
            pa.BufferReader(raw),
            # With one thread, Arrow reports the number of a faulty row.
            pacsv.ReadOptions(use_threads=False),
            pacsv.ParseOptions(delimiter=separator, newlines_in_values=True),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowException as error:
        raise DataError(f"{path}{_reason(str(error))}") from error
    # Arrow reads everything after an unclosed quote as one value.
    last = str(table.column(table.num_columns - 1)[-1]) if table.num_rows else ""
    if "\n" in last and not raw.to_pybytes().rstrip().endswith(b'"'):
        row = table.num_rows
        raise DataError(f"{path}, column {names[-1]!r}, row {row}: a quote is not closed.")
    return table


def _header(path: Path, raw: Any) -> tuple[list[str], str]:
    """Returns the names of the columns and the separator."""
    import pyarrow as pa

    lines = io.TextIOWrapper(pa.BufferReader(raw), encoding="utf-8-sig", newline="")
    try:
        first = next((line for line in lines if line.strip()), "")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}{_reason('invalid UTF8')}") from error
    unquoted = re.sub(r'"[^"]*"', "", first)
    separator = max(_SEPARATORS, key=unquoted.count)
    _check_lengths(path, re.split(rf'[{separator}"]', first.strip()))  # csv has a limit of its own
    try:
        names = next(csv.reader([first], delimiter=separator), [])
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV: {error}. {_EXPECTED}") from error
    if not names:
        raise DataError(f"{path} is empty. {_EXPECTED}")
    if all(re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", name.strip()) for name in names):
        raise DataError(
            f"{path} has numbers in its first line instead of the columns' names: "
            f"{first.strip()[:60]!r}."
        )
    return names, separator


def _reason(error: str) -> str:
    """Formats an error message from Arrow's, which counts the header as the first row."""
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", error):
        row, expected, got = map(int, found.groups())
        return f", row {row - 1}: expected {expected} values, found {got}."
    if "invalid UTF8" in error:
        return " is not UTF-8 text. Save it as CSV in UTF-8."
    return f" cannot be read as CSV: {error.splitlines()[0]}"
