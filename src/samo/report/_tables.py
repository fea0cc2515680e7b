"""The table of a comparison: for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.table import Table

from ..training._files import write_atomically
from ._rows import Row, Spread, Summary

_NONE = "–"
_BEST = "at the epoch that is best on validation data"


def header(summary: Summary) -> list[str]:
    """Heads the columns.

    Args:
        summary: The comparison.

    Returns:
        A title a column, with unit, and an arrow to where better is.
    """
    metrics = [f"{c.task} {c.label} {'↑' if c.higher_is_better else '↓'}" for c in summary.columns]
    return ["method", "sharpness", "ρ", *metrics, "average", "Δm (%) ↓", "step time"]


def cells(summary: Summary, row: Row) -> list[str]:
    """Words a row.

    Args:
        summary: The comparison.
        row: One of its rows.

    Returns:
        A text a column.
    """
    stl = row.method == "stl"
    return [
        "STL" if stl else row.method,
        _NONE if stl else row.sharpness,
        _NONE if row.rho is None else f"{row.rho:g}",
        *(_text(row.metrics.get(column.key)) for column in summary.columns),
        _text(row.average),
        _text(row.delta_m),
        _NONE if row.step_ratio is None or stl else f"{row.step_ratio:.2f} ×",
    ]


def _text(spread: Spread | None) -> str:
    return _NONE if spread is None else str(spread)


def notes(summary: Summary) -> list[str]:
    """Says what the numbers are.

    Args:
        summary: The comparison.

    Returns:
        Sentences.
    """
    several, n = summary.seeds > 1, summary.average_last
    said = [
        f"Test data, {f'mean of the last {n} epochs' if n else _BEST}; "
        f"{f'mean ± standard deviation over {summary.seeds} seeds' if several else 'one seed'}."
    ]
    if grids := {tuple(sorted(by_rho)) for by_rho in summary.grid.values()}:
        grid = max(grids, key=len)
        if len(grid) > 1:
            values = ", ".join(f"{rho:g}" for rho in grid)
            said.append(f"ρ is chosen from {{{values}}} on validation data, for each row.")
    if any(row.delta_m for row in summary.rows):
        said.append("Δm: mean relative drop against single-task training (STL); lower is better.")
    said.append("Step time: relative to plain training (erm) with the same method.")
    for row in summary.rows:
        if row.unfinished:
            arm = "STL" if row.method == "stl" else f"{row.method} with {row.sharpness}"
            runs = "1 run is" if row.unfinished == 1 else f"{row.unfinished} runs are"
            said.append(f"Incomplete: {arm}, {runs} missing or failed.")
    return said


def rich_table(summary: Summary, *, width: int) -> Table:
    """Makes the table for the terminal.

    Args:
        summary: The comparison.
        width: The width that there is, in characters; the table is set closer where it is small.

    Returns:
        The table.
    """
    close = width < 60 + 16 * (len(summary.columns) + 1)
    table = Table(
        title=summary.benchmark,
        caption=" ".join(notes(summary)),
        caption_justify="left",
        box=SIMPLE_HEAD if close else HEAVY_HEAD,
        padding=(0, 0) if close else (0, 1),
    )
    for i, title in enumerate(header(summary)):
        text = title.replace(" ", "\n") if close else title
        table.add_column(text, justify="left" if i < 2 else "right", no_wrap=not close)
    previous = None
    for row in summary.rows:
        if previous not in {None, row.method}:
            table.add_section()
        previous = row.method
        words = cells(summary, row)
        table.add_row(*(word.replace(" ± ", "±") for word in words) if close else words)
    return table


def markdown(summary: Summary) -> str:
    """Writes the table as Markdown.

    Args:
        summary: The comparison.

    Returns:
        The text.
    """
    lines = [header(summary), ["---", "---", *["---:"] * (len(header(summary)) - 2)]]
    lines += [cells(summary, row) for row in summary.rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{' '.join(notes(summary))}\n"


def write_csv(path: Path, summary: Summary) -> None:
    """Writes the table as CSV, unrounded: a mean and a standard deviation for each figure.

    Args:
        path: The file.
        summary: The comparison.
    """
    names = [f"{c.task}_{c.metric}" for c in summary.columns] + ["average", "delta_m"]
    lines: list[Sequence[object]] = [
        ["method", "sharpness", "rho", "seeds"]
        + [f"{name}_{part}" for name in names for part in ("mean", "std")]
        + ["step_ms", "step_ratio"]
    ]
    for row in summary.rows:
        figures = [row.metrics.get(c.key) for c in summary.columns] + [row.average, row.delta_m]
        parts = [part for s in figures for part in ((s.mean, s.std) if s else (None, None))]
        seeds = len({run["config"]["seed"] for run in row.runs})
        ratio = None if row.method == "stl" else row.step_ratio
        lines.append([row.method, row.sharpness, row.rho, seeds, *parts, row.step_ms, ratio])

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)

    write_atomically(path, write)
