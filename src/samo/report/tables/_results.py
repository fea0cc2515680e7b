"""The results of a comparison, and the time and memory of its runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table as RichTable

from ..summary import Column, Row, Spread, Summary, first_metrics
from ._differences import DIFFERENCES, contrasts_table, differences_table
from ._render import fitting, to_csv, to_markdown
from ._table import Cell, Table, cell


def results_table(summary: Summary) -> Table:
    """Creates the table of all arms, with published results below."""
    rows, first = summary.rows, summary.columns[:1]

    def numbers(spreads: Iterable[Spread | None], *of: Column) -> list[Cell]:
        digits = _decimals(summary, *of)
        return [Cell() if s is None else Cell(s.text(digits), s.mean) for s in spreads]

    columns: list[tuple[str, list[Cell]]] = [
        ("method", [cell(row.names[0]) for row in rows]),
        ("sharpness", [cell(row.names[1]) for row in rows]),
        ("ρ", [cell(row.rho, ".4g") for row in rows]),
    ]
    for c in summary.columns:
        cells = numbers((row.metrics.get(c.key) for row in rows), c)
        head = f"{c.task} {c.label} {'↑' if c.higher_is_better else '↓'}"
        columns.append((head, _with_best(cells, rows, higher_is_better=c.higher_is_better)))
    up = all(c.higher_is_better for c in first)
    averages = numbers((row.average for row in rows), *first)
    ranks = [cell(row.mean_rank, ".2f") for row in rows]
    changes = numbers(row.delta_m for row in rows)
    ratios = [Cell() if (r := row.step_ratio) is None else Cell(f"{r:.2f} ×", r) for row in rows]
    columns += [
        ("average", _with_best(averages, rows, higher_is_better=up)),
        ("MR ↓", _with_best(ranks, rows, higher_is_better=False)),
        ("Δm (%) ↓", _with_best(changes, rows, higher_is_better=False)),
        ("step time", ratios),
    ]
    quoted = [
        [row.label, f"[{row.source + 1}]", None]
        + [row.metrics.get(column.key) for column in summary.columns]
        + [row.average, None, row.delta_m, None]
        for row in summary.quoted
    ]
    return Table.of_columns(
        columns,
        title=summary.benchmark,
        quoted=[[cell(value) for value in row] for row in quoted],
        notes=list(_notes(summary)),
        grouped=True,
    )


def _decimals(summary: Summary, *columns: Column) -> int:
    """The number of decimals to show: two, and more if all values are below one."""
    found = [row.metrics[c.key].mean for row in summary.rows for c in columns if row.metrics]
    largest = max(map(abs, found), default=0.0)
    return 2 if largest == 0 or largest >= 1 else max(4, 2 - math.floor(math.log10(largest)))


def _with_best(cells: list[Cell], rows: Sequence[Row], *, higher_is_better: bool) -> list[Cell]:
    """Marks the best arm of a column, without single-task training."""
    pairs = list(zip(cells, rows, strict=True))
    arms = [c.value for c, row in pairs if c.value is not None and not row.baseline]
    best = (max(arms) if higher_is_better else min(arms)) if len(arms) > 1 else math.nan
    return [
        replace(c, mark="best") if c.value == best and not row.baseline else c for c, row in pairs
    ]


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
            against = f"published single-task numbers ({source}), because none were trained"
        yield f"Δm: mean relative drop against {against}; lower is better."
    if summary.ema:
        yield (
            f"+ema: the exponential moving average of the weights of the same runs (decay "
            f"{summary.ema:g}); step times include its update."
        )
    yield "Step time: relative to plain training (erm) with the same method."
    if summary.at_representation:
        yield (
            "@representation: task gradients are compared at the representation, else at the "
            "parameters. Step times and differences refer to erm at the parameters, if any."
        )
    for row in summary.rows:
        if row.unfinished:
            arm = " with ".join(filter(None, row.names))
            runs = "1 run is" if row.unfinished == 1 else f"{row.unfinished} runs are"
            yield f"Incomplete: {arm}, {runs} missing or failed."
    yield from summary.remarks
    yield from (f"[{i}] {source}" for i, source in enumerate(summary.sources, start=1))


def rich_table(summary: Summary, *, width: int) -> RichTable:
    """Creates the table for the terminal.

    Args:
        summary: The comparison.
        width: The width of the terminal in characters. If it is small, the table is compact, with
            the first metric of each task only, or without metrics.

    Returns:
        The table.
    """
    tables = [results_table(summary)]
    for columns in (tuple(first_metrics(summary.columns)), ()):
        table = results_table(replace(summary, columns=columns))
        if hidden := len(summary.columns) - len(columns):
            more = f"No room for {hidden} of the metrics: see table.md."
            table = replace(table, notes=[*tables[0].notes, more])
        tables.append(table)
    return fitting(tables, width)


def markdown(summary: Summary) -> str:
    """Formats the results and the differences of a comparison as Markdown."""
    table = results_table(summary)
    text = f"{to_markdown(table)}\n\n{' '.join(table.notes)}\n"
    if summary.differences:
        text += f"\n{DIFFERENCES}\n\n{to_markdown(differences_table(summary))}\n"
    if summary.contrasts:
        named = contrasts_table(summary)
        text += f"\n{' '.join(named.notes)}\n\n{to_markdown(named)}\n"
    return text


def write_csv(path: Path, summary: Summary) -> None:
    """Writes the results as CSV, not rounded, with mean and standard deviation of each score."""
    names = [f"{c.task}_{c.metric}" for c in summary.columns] + ["average", "delta_m"]
    heads = ["method", "sharpness", "level", "weights", "rho", "seeds"]
    heads += [f"{name}_{part}" for name in names for part in ("mean", "std")]
    heads += ["mean_rank", "step_ms", "step_ratio"]
    rows = []
    for row in summary.rows:
        spreads = [row.metrics.get(c.key) for c in summary.columns] + [row.average, row.delta_m]
        parts = [part for s in spreads for part in ((s.mean, s.std) if s else (None, None))]
        seeds = len({run["config"]["seed"] for run in row.runs})
        head = [row.method, row.sharpness, row.level, row.weights, row.rho, seeds]
        rows.append([*head, *parts, row.mean_rank, row.step_ms, row.step_ratio])
    to_csv(path, Table.of_values(heads, rows))


def timings_table(summary: Summary) -> Table:
    """Creates the table of times and memory."""

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
