"""A comparison: many runs, in several processes, through any number of interruptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ._files import RunDirectory, write_json
from ._plan import Cell
from ._workers import Event, Workers, in_order


def compare(
    cells: Sequence[Cell],
    out: Path | str,
    *,
    jobs: int = 1,
    watch: Callable[[Event], None] | None = None,
) -> dict[str, str]:
    """Trains the runs of a comparison that are not finished yet.

    A run that fails does not stop the others. After an interrupt, a second call goes on.

    Args:
        cells: The runs, from `plan`.
        out: The comparison's directory; each run has its own below it.
        jobs: How many processes to use. The numbers do not depend on it.
        watch: Is told what becomes of the runs, finished ones first.

    Returns:
        Why runs failed, by their path.

    Raises:
        RunError: If a run's directory holds another configuration; nothing is trained then.
    """
    out = Path(out)
    directories = [RunDirectory(out / cell.path) for cell in cells]
    for cell, directory in zip(cells, directories, strict=True):
        directory.check(cell.config)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "compare.json",
        [
            {
                "path": cell.path,
                "baseline": cell.baseline,
                "config": cell.config.model_dump(mode="json"),
            }
            for cell in cells
        ],
    )
    failures: dict[str, str] = {}
    todo = []
    for cell, directory in zip(cells, directories, strict=True):
        if directory.results() is None:
            todo.append(cell)
        elif watch:
            watch(Event(cell, ended=True))
    # Closed at once, and not some time later, when an interrupt comes: the processes end with it.
    sources = in_order(todo, min(jobs, len(todo)))
    with closing(Workers(out).run(sources)) as events:
        for event in events:
            if event.failure is not None:
                failures[event.cell.path] = event.failure
                _take_down(RunDirectory(out / event.cell.path), event.failure)
            if watch:
                watch(event)
    return failures


def _take_down(directory: RunDirectory, failure: str) -> None:
    """Writes down why a run failed, unless it has told more of it itself."""
    if not directory.error_file.exists():
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.error_file.write_text(failure + "\n", encoding="utf-8")
