"""Encodes input columns for the network, with statistics of the training rows only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..._names import unknown
from ._columns import Column, Floats, Integers, Numbers, identifies
from ._table import TableFile, standardised

_TYPES = ("numeric", "categorical")
# The names of index columns of pandas and Arrow.
_INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
# From this many rows on, consecutive integers are a row counter and no coincidence.
_COUNTER = 20


@dataclass
class Inputs:
    """The encoded inputs of all rows.

    Attributes:
        numbers: Standardised numbers, missing ones replaced by the mean, and an indicator for each
            column with missing numbers in training; shape ``[rows, ..]``.
        categories: For each string column, the index of the category among those of all columns
            (missing is one of them), 0 if it does not occur in training; shape ``[rows, ..]``.
        n_categories: The number of indices, including 0.
        numeric: The names of the number columns.
        categorical: The names of the string columns, with the number of their categories.
        left_out: The names of uninformative columns, with the reason.
    """

    numbers: Tensor
    categories: Tensor
    n_categories: int
    numeric: list[str] = field(default_factory=list)
    categorical: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def encode(
    table: TableFile, names: Sequence[str], types: Mapping[str, str], train: Integers
) -> Inputs:
    """Returns the encoded input columns; `types` has the declared types of columns, by name.

    Raises:
        ValueError: If a column does not have its declared type, consists of identifiers, or has
            values that cannot be standardised, or if no input column is informative.
    """
    columns = {name: _read(table, name, types.get(name)) for name in names}
    _refuse_identifiers(table, [n for n, c in columns.items() if n not in types and identifies(c)])
    numbers: list[Floats] = []
    categories: list[Integers] = []
    inputs = Inputs(torch.empty(0), torch.empty(0), n_categories=1)
    for name, column in columns.items():
        known = column.at(train)
        declared = name in types and known.present.any()
        reason = None if declared else _uninformative(name, column, known)
        if reason is not None:
            inputs.left_out[name] = reason
        elif isinstance(column, Numbers):
            inputs.numeric.append(name)
            numbers.append(np.nan_to_num(standardised(table, name, column, train)[0]))
            if not known.present.all():
                numbers.append((~column.present).astype(np.float64))
        else:
            seen = np.unique(known.keys)  # -1 too, if some are missing
            index = np.zeros(len(column.levels) + 1, dtype=np.int64)
            index[seen] = inputs.n_categories + np.arange(len(seen))
            categories.append(index[column.keys])
            inputs.categorical[name] = len(seen)
            inputs.n_categories += len(seen)
    if not numbers and not categories:
        raise ValueError(f"{table.path} has no informative input column{_why(inputs)}.")
    inputs.numbers = _stacked(numbers, table.n_rows, torch.float32)
    inputs.categories = _stacked(categories, table.n_rows, torch.int64)
    return inputs


def _read(table: TableFile, name: str, kind: str | None) -> Column:
    if kind is None:
        return table.column(name)
    if kind not in _TYPES:
        raise ValueError(f"{table.path}: column {name!r}: {unknown('type', kind, _TYPES)}")
    return table.numbers(name) if kind == "numeric" else table.texts(name)


def _refuse_identifiers(table: TableFile, names: Sequence[str]) -> None:
    if names:
        raise ValueError(
            f"{table.path}: nearly all values differ in {', '.join(names)}. Leave out names and "
            f"remarks: ignore={json.dumps(names, ensure_ascii=False)}."
        )


def _uninformative(name: str, column: Column, known: Column) -> str | None:
    """Returns why a column is uninformative, or None if it may be informative."""
    if _INDEX.fullmatch(name):
        return "an index without a name"
    if not known.present.any():
        return "empty in training"
    if known.distinct() == 1 and known.present.all():
        return "constant in training"
    if isinstance(column, Numbers) and len(column.keys) >= _COUNTER:
        return "a row counter" if (np.diff(column.keys) == 1).all() else None
    return None


def _why(inputs: Inputs) -> str:
    reasons = ", ".join(f"{name} is {reason}" for name, reason in inputs.left_out.items())
    return f": {reasons}" if reasons else ""


def _stacked(columns: Sequence[Floats | Integers], n_rows: int, dtype: torch.dtype) -> Tensor:
    found = torch.empty(n_rows, len(columns), dtype=dtype)
    for i, column in enumerate(columns):
        found[:, i] = torch.from_numpy(column)
    return found
