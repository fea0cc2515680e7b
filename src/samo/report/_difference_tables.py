"""The table of what the presets change: for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..records import write_atomically
from ._rows import Difference, Spread, Summary

DIFFERENCES = (
    "Differences to erm of the same method and seed: mean and 95 % confidence interval (Student's "
    "t over the seeds; over several methods the differences of a seed are averaged first)."
)


def difference_lines(summary: Summary) -> list[list[str]]:
    """Words the differences.

    Args:
        summary: The comparison.

    Returns:
        The heads of the columns, and a line a difference.
    """
    shown = summary.differences
    with_average, with_delta_m = (
        any(getattr(d, name) for d in shown) for name in ("average", "delta_m")
    )
    average = [c.label for c in summary.columns[:1] if with_average]
    up = summary.columns[0].higher_is_better if summary.columns else True
    heads = [f"average {label} {'↑' if up else '↓'}" for label in average]
    lines = [["sharpness", "methods", "seeds", *heads, *["Δm (%) ↓"] * with_delta_m]]
    for d in shown:
        values = [d.average] * with_average + [d.delta_m] * with_delta_m
        lines.append([d.sharpness, ", ".join(d.methods), _seeds(d), *map(worded, values)])
    return lines


def difference_table(summary: Summary) -> Table | None:
    """Makes the table for the terminal: each preset over all methods.

    Args:
        summary: The comparison.

    Returns:
        The table; None if there is nothing to compare.
    """
    if not summary.differences:
        return None
    heads, *lines = difference_lines(summary)
    table = Table(title="differences to erm", caption=DIFFERENCES, box=SIMPLE_HEAD)
    table.caption_justify = "left"
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i < 2 else "right")
    last = {d.sharpness: i for i, d in enumerate(summary.differences)}
    for i in last.values():
        table.add_row(*lines[i])
    return table


def write_differences(path: Path, summary: Summary) -> None:
    """Writes the differences as CSV, unrounded.

    Args:
        path: The file.
        summary: The comparison.
    """
    lines: list[Sequence[object]] = [
        ["sharpness", "methods", "seeds"]
        + [f"{name}_{part}" for name in ("average", "delta_m") for part in ("mean", "interval")]
    ]
    for d in summary.differences:
        figures = [
            part
            for spread in (d.average, d.delta_m)
            for part in ((spread.mean, spread.interval) if spread else (None, None))
        ]
        lines.append([d.sharpness, " ".join(d.methods), _seeds(d), *figures])
    write_lines(path, lines)


def write_lines(path: Path, lines: Sequence[Sequence[object]]) -> None:
    """Writes a CSV file atomically.

    Args:
        path: The file.
        lines: Its lines.
    """

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)

    write_atomically(path, write)


def _seeds(difference: Difference) -> str:
    spread = difference.average or difference.delta_m
    return str(len(spread.values)) if spread else "0"


def worded(spread: Spread | None) -> str:
    """Words a difference, such as ``+1.31 ± 3.23``."""
    if spread is None:
        return "–"
    # A true minus sign lines up with the plus.
    mean = f"{spread.mean:+.2f}".replace("-", "−")
    return mean if spread.interval is None else f"{mean} ± {spread.interval:.2f}"
