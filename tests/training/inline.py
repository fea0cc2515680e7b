"""Workers without processes: starting those takes seconds."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from samo import NonFiniteError
from samo.training import Event, Progress, RunError, train
from samo.training._errors import DivergedError
from samo.training._workers import Source

TRAINED: list[str] = []
"""The runs that were trained, in order, by their paths."""


class InlineWorkers:
    """Trains the runs of several sources in turn, in this process."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def run(self, sources: Sequence[Source]) -> Generator[Event]:
        pending: dict[Source, Any] = {source: next(source, None) for source in sources}
        try:
            while any(pending.values()):
                for source, cell in pending.items():
                    if cell is None:
                        continue
                    events: list[Event] = []

                    def watch(p: Progress, cell: Any = cell, into: list[Event] = events) -> None:
                        into.append(Event(cell, p.epoch))

                    TRAINED.append(cell.path)
                    failure: Exception | None = None
                    try:
                        train(cell.config, self._out / cell.path, watch=watch)
                    except (RunError, ArithmeticError) as error:
                        failure = error
                    yield from events[:1]
                    event = Event(
                        cell,
                        ended=True,
                        failure=None if failure is None else str(failure),
                        diverged=isinstance(failure, DivergedError | NonFiniteError),
                    )
                    yield event
                    try:
                        pending[source] = source.send(event)
                    except StopIteration:
                        pending[source] = None
        finally:
            for source in sources:
                source.close()
