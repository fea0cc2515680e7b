"""The result tables of the papers as data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class PublishedColumn:
    """A column of a printed table.

    Attributes:
        benchmark: The benchmark.
        task: The task, by the benchmark's name for it; ``""`` for a number over all tasks, such as
            Δm or the average.
        metric: The metric, by the benchmark's name for it.
        unit: The unit.
        higher_is_better: Whether higher values are better.
    """

    benchmark: str
    task: str
    metric: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class PublishedNote:
    """A printed Δm that differs from the one computed from its row.

    Attributes:
        row: The row.
        benchmark: The benchmark.
        recomputed: Δm computed from the columns of the row and the baseline.
        note: Whether the rounding of the columns explains the difference.
    """

    row: str
    benchmark: str
    recomputed: Decimal
    note: str


@dataclass(frozen=True)
class PublishedTable:
    """A printed table, with all printed digits.

    Attributes:
        name: Its name in this package.
        paper: The paper.
        arxiv: The paper's arXiv number.
        number: The table's number; ``""`` if it was collected from the text.
        title: A description of its content.
        remark: Caveats for comparisons with it.
        baseline: Table and row that Δm is relative to, as ``"table:row"``; ``""`` for none.
        columns: The columns.
        rows: The values by the printed label of the row, in the order of the columns; None for
            empty cells.
        notes: Errors in the printed rows.
    """

    name: str
    paper: str
    arxiv: str
    number: str
    title: str
    remark: str
    baseline: str
    columns: tuple[PublishedColumn, ...]
    rows: Mapping[str, tuple[Decimal | None, ...]]
    notes: tuple[PublishedNote, ...]

    @property
    def source(self) -> str:
        """The source, for instance ``"SAMO, arXiv 2507.07883, Table 4"``."""
        where = f", Table {self.number}" if self.number else f" ({self.title})"
        return f"{self.paper}, arXiv {self.arxiv}{where}"

    def value(self, row: str, task: str, metric: str) -> Decimal | None:
        """Returns a value of a table of one benchmark, or None if there is none."""
        for column, value in zip(self.columns, self.rows[row], strict=True):
            if (column.task, column.metric) == (task, metric):
                return value
        return None


def published(benchmark: str | None = None) -> tuple[PublishedTable, ...]:
    """Returns the result tables of the SAMO and F-MTL papers.

    All tables of SAMO are included except Table 3, which is about passes and has no numbers. The
    Multi-MNIST table of F-MTL is complete; the remarks describe the content of the others.

    Args:
        benchmark: Restricts the tables to the columns of this benchmark and the rows with a value
            in them.

    Returns:
        The tables, in the order of the papers.

    Example:
        >>> table = published("cityscapes")[1]
        >>> table.source
        'SAMO, arXiv 2507.07883, Table 4'
        >>> table.value("SAMO-FairGrad", "segmentation", "mIoU")
        Decimal('74.37')
    """
    tables = _all()
    if benchmark is None:
        return tables
    narrowed = (_narrowed(table, benchmark) for table in tables)
    return tuple(table for table in narrowed if table.rows)


def published_baseline(
    benchmark: str,
) -> tuple[PublishedTable, dict[tuple[str, str], float]] | None:
    """Returns the published results of single-task training.

    Args:
        benchmark: The benchmark.

    Returns:
        The table, and the values by task and metric; None if there are none for the same data.

    Example:
        >>> table, values = published_baseline("cityscapes")
        >>> values["depth", "absolute error"]
        0.0125
    """
    for table in published(benchmark):
        name, _, row = table.baseline.partition(":")
        if name == table.name:
            values = zip(table.columns, table.rows[row], strict=True)
            return table, {
                (c.task, c.metric): float(v) for c, v in values if c.task and v is not None
            }
    return None


@cache
def _all() -> tuple[PublishedTable, ...]:
    files = resources.files(__package__).joinpath("tables").iterdir()
    names = sorted((f.name for f in files if f.name.endswith(".toml")), key=_order)
    return tuple(_read(name) for name in names)


def _order(name: str) -> tuple[bool, int, str]:
    """Returns the sorting key: SAMO's tables by their numbers, then those of F-MTL."""
    stem = name.removesuffix(".toml")
    paper, _, rest = stem.rpartition("-")
    return paper != "samo", int(rest) if rest.isdigit() else 0, stem


def _read(name: str) -> PublishedTable:
    text = resources.files(__package__).joinpath("tables", name).read_text(encoding="utf-8")
    content: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    columns = tuple(
        PublishedColumn(c["benchmark"], c["task"], c["metric"], c["unit"], c["better"] == "higher")
        for c in content["columns"]
    )
    return PublishedTable(
        name=name.removesuffix(".toml"),
        paper=content["paper"],
        arxiv=content["arxiv"],
        number=content["table"],
        title=content["title"],
        remark=content.get("remark", ""),
        baseline=content.get("baseline", ""),
        columns=columns,
        rows={
            row: tuple(None if value == "" else value for value in values)
            for row, *values in content["rows"]
        },
        notes=tuple(PublishedNote(**note) for note in content.get("notes", [])),
    )


def _narrowed(table: PublishedTable, benchmark: str) -> PublishedTable:
    chosen = [i for i, column in enumerate(table.columns) if column.benchmark == benchmark]
    rows = {row: tuple(values[i] for i in chosen) for row, values in table.rows.items()}
    return replace(
        table,
        columns=tuple(table.columns[i] for i in chosen),
        rows={row: values for row, values in rows.items() if any(v is not None for v in values)},
        notes=tuple(note for note in table.notes if note.benchmark == benchmark),
    )
