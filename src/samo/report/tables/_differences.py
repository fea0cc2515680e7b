"""The differences of the presets to plain training, and the contrasts that were named."""

from __future__ import annotations

from collections.abc import Sequence
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
    columns = _columns(summary.differences, summary)
    return Table.of_columns(
        [("sharpness", [Cell(d.preset) for d in summary.differences]), *columns],
        title="differences to erm",
        notes=[DIFFERENCES],
    )


def contrasts_table(summary: Summary) -> Table:
    """Creates the table of the contrasts that were asked for by name."""
    found = summary.contrasts
    names = [Cell(f"{d.preset} − {d.reference}") for d in found]
    number = len({(d.preset, d.reference) for d in found})
    return Table.of_columns(
        [("contrast", names), *_columns(found, summary)],
        title="contrasts",
        notes=[
            f"Paired by seed: mean and 95 % confidence interval. {number} "
            f"{'contrast was' if number == 1 else 'contrasts were'} looked at, besides the "
            f"{len(summary.differences)} differences to erm: of many intervals, one in twenty "
            f"excludes zero by chance."
        ],
    )


def _columns(found: Sequence[Difference], summary: Summary) -> list[tuple[str, list[Cell]]]:
    """The methods, seeds and scores of differences."""
    return [
        ("methods", [cell(", ".join(d.methods)) for d in found]),
        ("seeds", [cell(_seeds(d)) for d in found]),
        *(
            (
                f"{score.label} {'↑' if score.higher_is_better else '↓'}",
                [_cell(score.of(d)) for d in found],
            )
            for score in summary.scores(found)
        ),
    ]


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
    """Writes the differences and contrasts as CSV, not rounded."""
    heads = ["sharpness", "reference", "methods", "seeds"]
    heads += [f"{name}_{part}" for name in ("average", "delta_m") for part in ("mean", "interval")]
    rows = [
        [d.preset, d.reference, " ".join(d.methods), _seeds(d)]
        + [
            part
            for spread in (d.average, d.delta_m)
            for part in ((spread.mean, spread.interval) if spread else (None, None))
        ]
        for d in (*summary.differences, *summary.contrasts)
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
