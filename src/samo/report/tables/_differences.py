"""The differences of the presets to plain training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table as RichTable

from ..summary import Difference, Spread, Summary
from ._render import rich, to_csv
from ._table import Cell, Table, cell

DIFFERENCES = (
    "Differences to erm of the same method and seed: mean and 95 % confidence interval (Student's "
    "t over the seeds; over several methods the differences of a seed are averaged first)."
)


def differences_table(summary: Summary) -> Table:
    """Creates the table of all differences; those whose interval excludes zero are marked."""
    found = summary.differences
    scores = summary.scores(found)
    heads = [f"{score.label} {'↑' if score.higher_is_better else '↓'}" for score in scores]
    rows = [
        [Cell(d.preset), Cell(", ".join(d.methods)), cell(_seeds(d))]
        + [_cell(score.of(d)) for score in scores]
        for d in found
    ]
    heads = ["sharpness", "methods", "seeds", *heads]
    return Table("differences to erm", heads, rows, notes=[DIFFERENCES])


def _cell(spread: Spread | None) -> Cell:
    if spread is None:
        return Cell()
    sure = spread.interval is not None and abs(spread.mean) > spread.interval
    return Cell(format_difference(spread), spread.mean, "best" if sure else "")


def difference_table(summary: Summary) -> RichTable | None:
    """Creates the table for the terminal: each preset over all methods; None if there is none."""
    if not summary.differences:
        return None
    # The difference over all methods is the last of its preset.
    last = {d.preset: d for d in summary.differences}
    return rich(differences_table(replace(summary, differences=tuple(last.values()))), close=True)


def write_differences(path: Path, summary: Summary) -> None:
    """Writes the differences as CSV, not rounded."""
    heads = ["sharpness", "methods", "seeds"]
    heads += [f"{name}_{part}" for name in ("average", "delta_m") for part in ("mean", "interval")]
    rows = [
        [d.preset, " ".join(d.methods), _seeds(d)]
        + [
            part
            for spread in (d.average, d.delta_m)
            for part in ((spread.mean, spread.interval) if spread else (None, None))
        ]
        for d in summary.differences
    ]
    to_csv(path, Table.of_values(heads, rows))


def _seeds(difference: Difference) -> int:
    spread = difference.average or difference.delta_m
    return len(spread.values) if spread else 0


def format_difference(spread: Spread | None) -> str:
    """Formats a difference with its interval, such as ``+1.31 ± 3.23``."""
    if spread is None:
        return "–"
    # A true minus sign lines up with the plus.
    mean = f"{spread.mean:+.2f}".replace("-", "−")
    return mean if spread.interval is None else f"{mean} ± {spread.interval:.2f}"
