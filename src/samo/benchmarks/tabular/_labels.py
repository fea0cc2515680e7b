"""The columns to be predicted, and what is asked of each: a number, or a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..._names import unknown
from ._columns import Column, Integers, Numbers, Texts, identifies
from ._table import Table

Kind = Literal["regression", "binary", "multi-class"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Integers with no more different values than this are taken for classes.
FEW = 20


@dataclass(frozen=True)
class Labels:
    """The labels of a task.

    Attributes:
        task: The task's name, which is that of the column.
        kind: What is asked.
        column: The labels: numbers for a regression, texts for classes.
    """

    task: str
    kind: Kind
    column: Column

    @property
    def classes(self) -> Integers:
        """The class of each row, -1 where the label is missing. Numbers are all of one class."""
        if isinstance(self.column, Texts):
            return self.column.keys
        return np.where(self.column.present, 0, -1)


def labels(table: Table, task: str, kind: str | None) -> Labels:
    """Reads the labels of a task.

    Two different values are a binary task; texts, and up to `FEW` integers, a multi-class one; all
    other numbers a regression.

    Args:
        table: The file.
        task: The column.
        kind: What it was declared to be; None to tell it by the values.

    Returns:
        The labels.

    Raises:
        ValueError: If there are none, or all are the same, or they do not fit what was declared.
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
        raise ValueError(f"{where} has nothing to learn: its labels are all the same.")
    if kind == "binary" and distinct != 2:
        raise ValueError(f"{where} cannot be binary: it has {distinct} different labels.")
    if kind is None and identifies(column):
        raise ValueError(
            f"{where} has {distinct} different texts in {column.present.sum()} rows, so they can "
            f'hardly be classes. If they are, declare it: types={{"{task}": "multi-class"}}.'
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
