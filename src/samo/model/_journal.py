"""The journal of a step: what has changed for a while, and how it is put back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
Undo = Callable[[], object]
"""Puts something back. It may run twice, and may run before the change or in the middle of it."""


class Journal:
    """What the step of an engine has changed, so that an exception at any moment leaves nothing.

    A change is noted before it is made. The ``finally`` of a context manager would not be enough:
    an interrupt may arrive as it begins.
    """

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def __reduce__(self) -> tuple[type[Journal], tuple[()]]:
        """A copy has changed nothing."""
        return Journal, ()

    def run(self, step: Callable[[], T]) -> T:
        """Runs a step. After an exception, all changes are undone before it is raised.

        Args:
            step: The step.

        Returns:
            What the step returns.

        Raises:
            RuntimeError: If a step is in progress.
        """
        if self._undo:
            raise RuntimeError(
                "A step of this engine is in progress, so it cannot take another one: do not call "
                "engine.backward or engine.check in the engine's own losses closure. Use a second "
                "engine there."
            )
        try:
            try:
                found = step()
                self._undo.clear()
                return found
            except BaseException:
                self.undo()
                raise
        except BaseException:  # perhaps an interrupt that arrived as changes were undone
            self.undo()
            raise

    def note(self, undo: Undo) -> None:
        """Adds what undoes a change that is about to be made and stays after the step."""
        self._undo.append(undo)

    def forget(self, undo: Undo) -> None:
        """Removes what has been undone."""
        self._undo.remove(undo)

    def during(self, make: Callable[[], object], undo: Undo) -> During:
        """Returns a context manager that makes a change, and undoes it on exit."""
        return During(self, make, undo)

    def undo(self) -> None:
        """Undoes all changes, the last one first."""
        while self._undo:
            self._undo[-1]()  # stays in the journal until it has been undone
            self._undo.pop()


class During:
    """The context manager of `Journal.during`."""

    __slots__ = ("_journal", "_make", "_undo")

    def __init__(self, journal: Journal, make: Callable[[], object], undo: Undo) -> None:
        self._journal, self._make, self._undo = journal, make, undo

    def __enter__(self) -> None:
        self._journal.note(self._undo)
        self._make()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo()
        self._journal.forget(self._undo)
