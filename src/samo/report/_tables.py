"""The table of a comparison: for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from ._difference_tables import DIFFERENCES, difference_lines, write_lines
from ._rows import Column, Quoted, Row, Spread, Summary, first_metrics

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
    return ["method", "sharpness", "ρ", *metrics, "average", "MR ↓", "Δm (%) ↓", "step time"]


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
        _NONE if row.rho is None else f"{row.rho:.4g}",
        *(_text(row.metrics.get(c.key), decimals(summary, c)) for c in summary.columns),
        _text(row.average, decimals(summary, *summary.columns[:1])),
        _NONE if row.mean_rank is None else f"{row.mean_rank:.2f}",
        _text(row.delta_m),
        _NONE if row.step_ratio is None or stl else f"{row.step_ratio:.2f} ×",
    ]


def quoted_cells(summary: Summary, row: Quoted) -> list[str]:
    """Words a published row.

    Args:
        summary: The comparison.
        row: One of the rows that it quotes.

    Returns:
        A text a column.
    """
    return [
        row.label,
        f"[{row.source + 1}]",
        _NONE,
        *(row.metrics.get(column.key, _NONE) for column in summary.columns),
        row.average or _NONE,
        _NONE,
        row.delta_m or _NONE,
        _NONE,
    ]


def decimals(summary: Summary, *columns: Column) -> int:
    """Finds how many digits after the point a metric needs: two, and more where it is below one.

    Args:
        summary: The comparison.
        *columns: The metrics that share the digits.

    Returns:
        The number of digits.
    """
    found = [row.metrics[c.key].mean for row in summary.rows for c in columns if row.metrics]
    largest = max(map(abs, found), default=0.0)
    return 2 if largest == 0 or largest >= 1 else max(4, 2 - math.floor(math.log10(largest)))


def _text(spread: Spread | None, digits: int = 2) -> str:
    return _NONE if spread is None else spread.text(digits)


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
    if any(row.mean_rank for row in summary.rows):
        said.append("MR: mean rank among these rows over all metrics.")
    if any(row.delta_m for row in summary.rows):
        against = "single-task training (STL)"
        if summary.baseline:
            against = (
                f"published single-task numbers ({summary.baseline}), as there are no own ones"
            )
        said.append(f"Δm: mean relative drop against {against}; lower is better.")
    said.append("Step time: relative to plain training (erm) with the same method.")
    for row in summary.rows:
        if row.unfinished:
            arm = "STL" if row.method == "stl" else f"{row.method} with {row.sharpness}"
            runs = "1 run is" if row.unfinished == 1 else f"{row.unfinished} runs are"
            said.append(f"Incomplete: {arm}, {runs} missing or failed.")
    said += summary.remarks
    said += [f"[{i}] {source}" for i, source in enumerate(summary.sources, start=1)]
    return said


def rich_table(summary: Summary, *, width: int) -> Table:
    """Makes the table for the terminal.

    Args:
        summary: The comparison.
        width: The width that there is, in characters. Where it is small the table is set closer,
            and then shows each task's first metric only, or none.

    Returns:
        The table.
    """
    first = replace(summary, columns=tuple(first_metrics(summary.columns)))
    layouts = [(summary, False), (summary, True), (first, True), (replace(first, columns=()), True)]
    for shown, close in layouts:
        said = notes(summary)
        if hidden := len(summary.columns) - len(shown.columns):
            said.append(f"There is no room for {hidden} of the metrics: see table.md.")
        table = _laid_out(shown, said, close=close)
        # Measured, and not guessed: names of tasks and methods may be of any length.
        console = Console(width=10_000)
        needed = Measurement.get(console, console.options, table)
        if needed.maximum <= width:
            break
    return table


def _laid_out(summary: Summary, said: Sequence[str], *, close: bool) -> Table:
    table = Table(
        title=summary.benchmark,
        caption=escape(" ".join(said)),
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
    table.add_section()
    for quoted in summary.quoted:
        label, *words = map(escape, quoted_cells(summary, quoted))
        table.add_row(label.replace(" ", "\n") if close else label, *words)
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
    lines += [quoted_cells(summary, row) for row in summary.quoted]
    text = f"{_rows(lines)}\n\n{' '.join(notes(summary))}\n"
    if summary.differences:
        heads, *changes = difference_lines(summary)
        lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)], *changes]
        text += f"\n{DIFFERENCES}\n\n{_rows(lines)}\n"
    return text


def _rows(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        + ["mean_rank", "step_ms", "step_ratio"]
    ]
    for row in summary.rows:
        figures = [row.metrics.get(c.key) for c in summary.columns] + [row.average, row.delta_m]
        parts = [part for s in figures for part in ((s.mean, s.std) if s else (None, None))]
        seeds = len({run["config"]["seed"] for run in row.runs})
        ratio = None if row.method == "stl" else row.step_ratio
        head = [row.method, row.sharpness, row.rho, seeds]
        lines.append([*head, *parts, row.mean_rank, row.step_ms, ratio])
    write_lines(path, lines)
