"""Splits rows into train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._benchmark import Split
from .._errors import DataError
from ._columns import Integers
from ._labels import Labels
from ._table import TableFile

Rows = dict[Split, Integers]
"""The indices of the rows of each split."""

# The splits of every five rows: 60, 20 and 20 %.
_DEAL: tuple[Split, ...] = ("train", "validation", "train", "test", "train")
_NAMES: dict[str, Split] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}


def split_rows(table: TableFile, tasks: Sequence[Labels], column: str | None, seed: int) -> Rows:
    """Splits the rows that have a label of any task.

    If no column has each row's split, the splits are drawn by the seed.

    Returns:
        The rows of each split; the first few have labels of every task.

    Raises:
        DataError: If there are no training or no test rows, the split of a row is unknown, or a
            task cannot be learned or evaluated on the rows of a split.
    """
    classes = np.stack([labels.classes for labels in tasks])
    labelled = np.flatnonzero((classes >= 0).any(0))
    random = np.random.default_rng(seed)
    if column is None:
        rows = _drawn(labelled, classes, _DEAL, random)
    else:
        rows = _named(table, column, labelled)
        if not len(rows["validation"]):
            deal: tuple[Split, ...] = ("train", "train", "validation", "train", "train")
            test = rows["test"]
            rows = {**_drawn(rows["train"], classes, deal, random), "test": test}
    for labels in tasks:
        _check(table, labels, rows)
    return {
        split: _varied_first(random.permutation(chosen), tasks) for split, chosen in rows.items()
    }


def _drawn(
    rows: Integers, classes: Integers, deal: Sequence[Split], random: np.random.Generator
) -> Rows:
    """Draws the splits, stratified by the rarest class of each row."""
    counts = [np.bincount(of[of >= 0]) for of in classes]
    sizes = np.stack(
        [
            np.where(of >= 0, n[of], np.iinfo(np.int64).max)
            for of, n in zip(classes, counts, strict=True)
        ]
    )
    task = sizes.argmin(0)[rows]
    rarest = classes[task, rows]
    order = rows[np.lexsort((random.random(len(rows)), rarest, task))]
    part = np.arange(len(rows)) % len(deal)
    return {
        split: order[np.isin(part, [i for i, of in enumerate(deal) if of == split])]
        for split in ("train", "validation", "test")
    }


def _named(table: TableFile, column: str, labelled: Integers) -> Rows:
    names = table.texts(column)
    found = np.array([*(_NAMES.get(level.lower(), "") for level in names.levels), ""], dtype=object)
    part = found[names.keys[labelled]]  # the key -1 takes the last one
    faulty = labelled[part == ""]
    if len(faulty):
        row = int(faulty[0])
        value = repr(names.levels[names.keys[row]]) if names.present[row] else "nothing"
        raise table.fault(
            column, row, f"the split must be train, validation (or val) or test; found {value}."
        )
    rows: Rows = {split: labelled[part == split] for split in ("train", "validation", "test")}
    for split in ("train", "test"):
        if not len(rows[split]):
            raise DataError(f"{table.path}: no labelled row is {split!r} in column {column!r}.")
    return rows


def _check(table: TableFile, labels: Labels, rows: Rows) -> None:
    """Checks that a task's metrics are defined on each split."""
    for split, chosen in rows.items():
        column = labels.column.at(chosen)
        needed = 1 if labels.kind == "multi-class" and split != "train" else 2
        if column.distinct() < needed:
            n = int(column.present.sum())
            raise DataError(
                f"{table.path}: task {labels.task!r} ({labels.kind}) has {n} labels in the {split} "
                f"split, {column.distinct()} of them different; {needed} are needed. Label more "
                f"rows, or split them differently (seed, split_column)."
            )


def _varied_first(rows: Integers, tasks: Sequence[Labels]) -> Integers:
    """Moves a row of each class (or two rows with different numbers) of each task to the front."""
    # Then metrics are also defined on the first training batches, on which training is monitored.
    first: list[int] = []
    for labels in tasks:
        column = labels.column.at(rows)
        present = np.flatnonzero(column.present)
        _, chosen = np.unique(column.keys[present], return_index=True)
        first += rows[
            present[np.sort(chosen)[: None if labels.kind != "regression" else 2]]
        ].tolist()
    return np.array(list(dict.fromkeys([*first, *rows.tolist()])), dtype=np.int64)
