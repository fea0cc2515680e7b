"""The tables of results: the comparison, what the presets change, what they cost."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from .._difference_tables import DIFFERENCES, difference_lines
from .._rows import Difference, Quoted, Row, Spread, Summary
from .._tables import cells, header, notes, quoted_cells
from ._blocks import NONE, Cell, Table, number
from ._groups import Group

_FIGURES = ("average", "delta_m")


def summary_table(group: Group, summary: Summary, prefix: str) -> Table:
    """Makes the table of all arms, with published rows below.

    Args:
        group: The runs.
        summary: Their summary.
        prefix: What the table's id begins with.

    Returns:
        The table.
    """
    heads = header(summary)
    values = [_values(summary, row) for row in summary.rows]
    arms = [v for v, row in zip(values, summary.rows, strict=True) if row.method != "stl"]
    best = [_best([v[i] for v in arms], up) for i, up in enumerate(_directions(summary))]
    rows = []
    for row, numbers in zip(summary.rows, values, strict=True):
        line = [Cell(text) for text in cells(summary, row)]
        for i, value in enumerate(numbers):
            if value is not None:
                mark = "best" if value == best[i] and row.method != "stl" else ""
                line[i + 2] = Cell(line[i + 2].text, value, mark)
        rows.append([*line[:2], _counts(group, row), *line[2:]])
    return Table(
        f"{prefix}-results",
        f"Test results of {group.title}",
        [*heads[:2], "runs", *heads[2:]],
        rows,
        quoted=[_quoted(summary, row) for row in summary.quoted],
        notes=[
            *(note for note in notes(summary) if not note.startswith("Incomplete:")),
            "Runs: how many are finished of those that were planned, at all ρ.",
            "Bold: the best of a column, single-task training apart.",
        ],
    )


def _quoted(summary: Summary, row: Quoted) -> list[Cell]:
    words = quoted_cells(summary, row)
    return [Cell(words[0]), Cell(f"published {words[1]}"), *map(Cell, [NONE, *words[2:]])]


def _values(summary: Summary, row: Row) -> list[float | None]:
    spreads = [row.metrics.get(column.key) for column in summary.columns] + [row.average]
    means = [None if spread is None else spread.mean for spread in spreads]
    change = None if row.delta_m is None else row.delta_m.mean
    ratio = None if row.method == "stl" else row.step_ratio
    return [row.rho, *means, row.mean_rank, change, ratio]


def _directions(summary: Summary) -> list[bool | None]:
    ups = [column.higher_is_better for column in summary.columns]
    return [None, *ups, ups[0] if ups else None, False, False, None]


def _best(values: Sequence[float | None], up: bool | None) -> float | None:
    there = [value for value in values if value is not None]
    if up is None or len(there) < 2:
        return None
    return max(there) if up else min(there)


def _counts(group: Group, row: Row) -> Cell:
    """How many runs of an arm are finished."""
    stl, wanted = row.method == "stl", (row.method, row.sharpness)
    arm = [r for r in group.runs if r.baseline == stl and (stl or _arm(r.config) == wanted)]
    states = Counter(run.state for run in arm)
    done = states["finished"]
    text = f"{done}/{len(arm)}"
    return Cell(text, done, "" if done == len(arm) else "missing")


def _arm(config: dict[str, object]) -> tuple[object, object]:
    return config["method"], config["sharpness"]


def change_table(summary: Summary, prefix: str) -> Table:
    """Makes the table of what the presets change.

    Args:
        summary: The comparison.
        prefix: What the table's id begins with.

    Returns:
        The table.
    """
    heads, *lines = difference_lines(summary)
    shown = [name for name in _FIGURES if any(getattr(d, name) for d in summary.differences)]
    rows = []
    for line, d in zip(lines, summary.differences, strict=True):
        spreads: list[Spread | None] = [getattr(d, name) for name in shown]
        tail = [_change(text, s) for text, s in zip(line[3:], spreads, strict=True)]
        rows.append([Cell(line[0]), _methods(d, line[1]), Cell(line[2], int(line[2])), *tail])
    said = [
        DIFFERENCES,
        "Bold: the interval does not hold zero. With this many intervals some miss it by chance.",
    ]
    return Table(
        f"{prefix}-changes", "Paired differences to plain training", heads, rows, notes=said
    )


def _methods(difference: Difference, text: str) -> Cell:
    n = len(difference.methods)
    return Cell(f"all {n}: {text}" if n > 1 else text)


def _change(text: str, spread: Spread | None) -> Cell:
    if spread is None:
        return Cell(NONE)
    sure = spread.interval is not None and abs(spread.mean) > spread.interval
    return Cell(text, spread.mean, "best" if sure else "")


def cost_table(summary: Summary, prefix: str) -> Table:
    """Makes the table of times and memory.

    Args:
        summary: The comparison.
        prefix: What the table's id begins with.

    Returns:
        The table.
    """
    heads = ["method", "sharpness", "step (ms)", "relative", "epoch (s)", "run (s)", "memory (MB)"]
    rows = []
    for row in summary.rows:
        if row.runs:
            ratio = None if row.method == "stl" else row.step_ratio
            rows.append(
                [
                    Cell("STL" if row.method == "stl" else row.method),
                    Cell(NONE if row.method == "stl" else row.sharpness),
                    number(row.step_ms, ".1f"),
                    number(ratio, ".2f"),
                    number(_cost(row, "epoch_s", statistics.fmean), ".2f"),
                    number(_cost(row, "total_s", statistics.fmean), ".1f"),
                    number(_cost(row, "peak_memory_mb", max), ".0f"),
                ]
            )
    said = [
        "Means over the runs of an arm; a step's time is the median of the run. Relative: to plain "
        "training with the same method. Memory: the highest of the whole process, or of the GPU; "
        "– where it was not recorded. Times depend on what else the machine did."
    ]
    return Table(f"{prefix}-costs", "Time and memory", heads, rows, notes=said)


def _cost(row: Row, name: str, of: Callable[[list[float]], float]) -> float | None:
    values = row.timings(name)
    return of(values) if values else None
