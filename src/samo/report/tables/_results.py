"""The results of a comparison, and what its runs took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from ..summary import Column, Row, Spread, Summary, first_metrics
from ._differences import DIFFERENCES, differences_table
from ._render import fitting, to_csv, to_markdown
from ._table import Cell, Table, cell


@dataclass(frozen=True)
class _Quantity:
    """A column of numbers.

    Attributes:
        head: The title of the column.
        of: Its value for a row.
        form: How a value is written.
        higher_is_better: The direction; None if no value is better than another.
    """

    head: str
    of: Callable[[Row], Any]
    form: Callable[[Any], str]
    higher_is_better: bool | None = None

    def cells(self, rows: Sequence[Row]) -> Iterator[Cell]:
        """Makes the cells of all rows, with the best arm marked."""
        means = [_mean(self.of(row)) for row in rows]
        arms = [m for m, row in zip(means, rows, strict=True) if m is not None and not row.baseline]
        best = None
        if self.higher_is_better is not None and len(arms) > 1:
            best = max(arms) if self.higher_is_better else min(arms)
        for mean, row in zip(means, rows, strict=True):
            mark = "best" if mean == best and not row.baseline else ""
            yield Cell() if mean is None else Cell(self.form(self.of(row)), mean, mark)


def _mean(value: Spread | float | None) -> float | None:
    return value.mean if isinstance(value, Spread) else value


def _quantities(summary: Summary) -> list[_Quantity]:
    def metric(column: Column) -> _Quantity:
        arrow, digits = "↑" if column.higher_is_better else "↓", _decimals(summary, column)
        return _Quantity(
            f"{column.task} {column.label} {arrow}",
            lambda row: row.metrics.get(column.key),
            lambda spread: spread.text(digits),
            column.higher_is_better,
        )

    first = summary.columns[:1]
    digits = _decimals(summary, *first)
    return [
        _Quantity("ρ", lambda row: row.rho, "{:.4g}".format),
        *map(metric, summary.columns),
        _Quantity(
            "average",
            lambda row: row.average,
            lambda spread: spread.text(digits),
            first[0].higher_is_better if first else None,
        ),
        _Quantity("MR ↓", lambda row: row.mean_rank, "{:.2f}".format, higher_is_better=False),
        _Quantity("Δm (%) ↓", lambda row: row.delta_m, str, higher_is_better=False),
        _Quantity("step time", lambda row: row.step_ratio, "{:.2f} ×".format),
    ]


def _decimals(summary: Summary, *columns: Column) -> int:
    """The number of decimals to show: two, and more if all values are below one."""
    found = [row.metrics[c.key].mean for row in summary.rows for c in columns if row.metrics]
    largest = max(map(abs, found), default=0.0)
    return 2 if largest == 0 or largest >= 1 else max(4, 2 - math.floor(math.log10(largest)))


def results_table(summary: Summary) -> Table:
    """Makes the table of all arms, with published results below."""
    names = [("method", 0), ("sharpness", 1)]
    quoted = [
        [row.label, f"[{row.source + 1}]", None]
        + [row.metrics.get(column.key) for column in summary.columns]
        + [row.average, None, row.delta_m, None]
        for row in summary.quoted
    ]
    return Table.of_columns(
        [
            *((head, [cell(row.names[i]) for row in summary.rows]) for head, i in names),
            *((one.head, one.cells(summary.rows)) for one in _quantities(summary)),
        ],
        title=summary.benchmark,
        quoted=[[cell(value) for value in row] for row in quoted],
        notes=list(_notes(summary)),
        grouped=True,
    )


def _notes(summary: Summary) -> Iterator[str]:
    """Explains the numbers."""
    n, seeds = summary.average_last, summary.seeds
    epochs = f"mean of the last {n} epochs" if n else "at the epoch that is best on validation data"
    several = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    yield f"Test data, {epochs}; {several}."
    grid = max((sorted(by_rho) for by_rho in summary.grid.values()), key=len, default=[])
    if len(grid) > 1:
        values = ", ".join(f"{rho:g}" for rho in grid)
        yield f"ρ is chosen from {{{values}}} on validation data, for each row."
    if any(row.mean_rank for row in summary.rows):
        yield "MR: mean rank among these rows over all metrics."
    if any(row.delta_m for row in summary.rows):
        against = "single-task training (STL)"
        if source := summary.baseline:
            against = f"published single-task numbers ({source}), as there are no own ones"
        yield f"Δm: mean relative drop against {against}; lower is better."
    yield "Step time: relative to plain training (erm) with the same method."
    for row in summary.rows:
        if row.unfinished:
            arm = "STL" if row.baseline else f"{row.method} with {row.sharpness}"
            runs = "1 run is" if row.unfinished == 1 else f"{row.unfinished} runs are"
            yield f"Incomplete: {arm}, {runs} missing or failed."
    yield from summary.remarks
    yield from (f"[{i}] {source}" for i, source in enumerate(summary.sources, start=1))


def rich_table(summary: Summary, *, width: int) -> RichTable:
    """Makes the table for the terminal.

    Args:
        summary: The comparison.
        width: The width of the terminal in characters. If it is small, the table is set closely,
            with the first metric of each task only, or without metrics.

    Returns:
        The table.
    """
    tables = [results_table(summary)]
    for columns in (tuple(first_metrics(summary.columns)), ()):
        table = results_table(replace(summary, columns=columns))
        if hidden := len(summary.columns) - len(columns):
            more = f"There is no room for {hidden} of the metrics: see table.md."
            table = replace(table, notes=[*tables[0].notes, more])
        tables.append(table)
    return fitting(tables, width)


def markdown(summary: Summary) -> str:
    """Formats the results and the differences as Markdown.

    Args:
        summary: The comparison.

    Returns:
        The text.
    """
    table = results_table(summary)
    text = f"{to_markdown(table)}\n\n{' '.join(table.notes)}\n"
    if summary.differences:
        text += f"\n{DIFFERENCES}\n\n{to_markdown(differences_table(summary))}\n"
    return text


def write_csv(path: Path, summary: Summary) -> None:
    """Writes the results as CSV, not rounded, with mean and standard deviation of each score.

    Args:
        path: The file.
        summary: The comparison.
    """
    names = [f"{c.task}_{c.metric}" for c in summary.columns] + ["average", "delta_m"]
    heads = ["method", "sharpness", "rho", "seeds"]
    heads += [f"{name}_{part}" for name in names for part in ("mean", "std")]
    heads += ["mean_rank", "step_ms", "step_ratio"]
    rows = []
    for row in summary.rows:
        spreads = [row.metrics.get(c.key) for c in summary.columns] + [row.average, row.delta_m]
        parts = [part for s in spreads for part in ((s.mean, s.std) if s else (None, None))]
        seeds = len({run["config"]["seed"] for run in row.runs})
        head = [row.method, row.sharpness, row.rho, seeds]
        rows.append([*head, *parts, row.mean_rank, row.step_ms, row.step_ratio])
    to_csv(path, Table.of_values(heads, rows))


def timings_table(summary: Summary) -> Table:
    """Makes the table of times and memory."""

    def mean(row: Row, name: str) -> float | None:
        return statistics.fmean(values) if (values := row.timings(name)) else None

    rows = [
        [
            *map(cell, row.names),
            cell(row.step_ms, ".1f"),
            cell(row.step_ratio, ".2f"),
            cell(mean(row, "epoch_s"), ".2f"),
            cell(mean(row, "total_s"), ".1f"),
            cell(max(row.timings("peak_memory_mb"), default=None), ".0f"),
        ]
        for row in summary.rows
        if row.runs
    ]
    heads = ["method", "sharpness", "step (ms)", "relative", "epoch (s)", "run (s)", "memory (MB)"]
    note = (
        "Means over the runs of an arm; the time of a step is the median of the run. Relative: to "
        "plain training with the same method. Memory: the peak of the whole process, or of the "
        "GPU; – if it was not recorded. Times depend on the load of the machine."
    )
    return Table("Time and memory", heads, rows, notes=[note])
