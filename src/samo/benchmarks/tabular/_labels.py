"""The labels of a task: numbers or classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..._names import unknown
from ._columns import Column, Integers, Numbers, Texts, identifies
from ._table import TableFile

Kind = Literal["regression", "binary", "multi-class"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Up to this many different integers are classes.
FEW = 20


@dataclass(frozen=True)
class Labels:
    """The labels of a task.

    Attributes:
        task: The name of the task and of its column.
        kind: The kind of the task.
        column: The labels: numbers for a regression, strings for classes.
    """

    task: str
    kind: Kind
    column: Column

    @property
    def classes(self) -> Integers:
        """The class of each row, -1 for a missing label. All numbers are of one class."""
        if isinstance(self.column, Texts):
            return self.column.keys
        return np.where(self.column.present, 0, -1)


def labels(table: TableFile, task: str, kind: str | None) -> Labels:
    """Returns the labels of a task, of a declared kind, or of the kind that the values imply.

    Two different values imply a binary task; strings and up to `FEW` different integers imply a
    multi-class task; other numbers imply a regression.

    Raises:
        ValueError: If there are no labels, all are equal, or they contradict the declared kind.
    """
    where = f"{table.path}: task {task!r}"
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{where}: {unknown('type', kind, KINDS)}")
    column: Column
    if kind is None:
        column = table.column(task)
    else:
        column = table.numbers(task) if kind == "regression" else table.texts(task)
    distinct = column.distinct()
    if distinct == 0:
        raise ValueError(f"{where} has no labels: no row has a value in this column.")
    if distinct == 1:
        raise ValueError(f"{where} has nothing to learn: all its labels are equal.")
    if kind == "binary" and distinct != 2:
        raise ValueError(f"{where} cannot be binary: it has {distinct} different labels.")
    if kind is None and identifies(column):
        raise ValueError(
            f"{where} has {distinct} different strings in {column.present.sum()} rows, which are "
            f'unlikely to be classes. If they are, declare it: types={{"{task}": "multi-class"}}.'
        )
    if kind is None:
        inferred = _inferred(column, distinct)
        if inferred != "regression" and isinstance(column, Numbers):
            column = column.as_texts()
        return Labels(task, inferred, column)
    return Labels(task, next(k for k in KINDS if k == kind), column)


def _inferred(column: Column, distinct: int) -> Kind:
    if distinct == 2:
        return "binary"
    if isinstance(column, Texts) or (distinct <= FEW and column.whole()):
        return "multi-class"
    return "regression"
