"""Comparison of runs, trained in several processes and resumable after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ..records.directory import RunDirectory, write_plan
from ..records.schema import Planned, validated
from ._plan import Cell, check_contrasts
from ._workers import Event, Workers, in_order


def compare(
    cells: Sequence[Cell],
    out: Path | str,
    *,
    contrasts: Sequence[str] = (),
    jobs: int = 1,
    watch: Callable[[Event], None] | None = None,
) -> dict[str, str]:
    """Trains the runs of a comparison that are not finished yet, and records which it has.

    A failed run does not stop the others. After an interruption, call it again to continue.

    Args:
        cells: The runs, from `plan`.
        out: The comparison's directory; each run has its own subdirectory.
        contrasts: The differences of interest, named beforehand, such as ``"erm+ema:gsam"``.
        jobs: The number of processes. The results do not depend on it.
        watch: Called when a run progresses or ends; first for runs that have already finished.

    Returns:
        The reason for each failed run, by its path.

    Raises:
        RunError: If a run's directory holds another configuration, or a contrast names an arm that
            there is not (raised before any training).
    """
    check_contrasts(contrasts, cells)
    out = Path(out)
    _check(cells, out)
    out.mkdir(parents=True, exist_ok=True)
    write_plan(out, [_planned(cell) for cell in cells], contrasts)
    return run_cells(cells, out, jobs=jobs, watch=watch)


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    jobs: int = 1,
    watch: Callable[[Event], None] | None = None,
) -> dict[str, str]:
    """Trains the runs that are not finished yet; arguments and result are those of `compare`."""
    _check(cells, out)
    out.mkdir(parents=True, exist_ok=True)
    directories = {cell.path: RunDirectory(out / cell.path) for cell in cells}
    failures: dict[str, str] = {}
    todo = []
    for cell in cells:
        if directories[cell.path].results() is None:
            todo.append(cell)
        elif watch:
            watch(Event(cell, ended=True))
    # On an interrupt, closing the generator ends the processes immediately.
    with closing(Workers(out).run(in_order(todo, min(jobs, len(todo))))) as events:
        for event in events:
            if event.failure is not None:
                directory = directories[event.cell.path]
                failures[event.cell.path] = event.failure
                if not directory.error_file.exists():  # the run may have saved a traceback
                    directory.record_failure(event.failure + "\n")
            if watch:
                watch(event)
    return failures


def _check(cells: Sequence[Cell], out: Path) -> None:
    for cell in cells:
        RunDirectory(out / cell.path).check(cell.config.plain())


def _planned(cell: Cell) -> Planned:
    fields = {"path": cell.path, "baseline": cell.baseline, "config": cell.config.plain()}
    if cell.weights is not None:
        fields["weights"] = list(cell.weights)
    return validated(Planned, fields)
