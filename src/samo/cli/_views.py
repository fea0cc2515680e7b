"""Progress of commands: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.progress import TaskID as BarID

from ..training import Event, Progress


class View:
    """A bar that is shown within a block.

    Args:
        console: The console.
        what: The label of the bar.
        total: Its total.
        by_itself: Whether a thread redraws the bar ten times a second.
    """

    def __init__(self, console: Console, what: str, total: int, *, by_itself: bool = True) -> None:
        self.console = console
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            auto_refresh=by_itself,
            disable=not console.is_terminal,
        )
        self.bar = self.bars.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def show(self, line: str = "", **changes: Any) -> None:
        """Updates the bar, and prints a line if there are no bars."""
        self.bars.update(self.bar, **changes)
        if line and not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class TrainView(View):
    """Shows the epochs of a run."""

    def __init__(self, console: Console, epochs: int) -> None:
        super().__init__(console, "epoch", epochs)

    def watch(self, progress: Progress) -> None:
        """Shows the progress after a step or an epoch."""
        if progress.record is None:
            done = progress.epoch - 1 + (progress.step / progress.steps if progress.steps else 0)
            self.show(completed=int(done))
            return
        note = f"training/validation: {_scores(progress.record)}"
        line = f"epoch {progress.epoch}/{progress.epochs}  {note}"
        self.show(line, completed=progress.epoch, note=note)


def _scores(record: dict[str, Any]) -> str:
    """Formats the first metric of each task, on training and validation data."""
    parts = []
    for task, scores in record["validation"].items():
        name = next(iter(scores))
        parts.append(f"{task} {record['train'][task][name]:.1f}/{scores[name]:.1f}")
    return "  ".join(parts)


class CompareView(View):
    """Shows many runs: a bar for all, and one for each that is in progress."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, "[bold]runs", total)
        self._total = total
        self._ended = 0
        self._running: dict[str, BarID] = {}

    def watch(self, event: Event) -> None:
        """Shows the progress or the end of a run."""
        path, epochs = event.cell.path, event.cell.config.epochs
        if not event.ended:
            if path not in self._running:
                self._running[path] = self.bars.add_task(path, total=epochs, note="")
            self.bars.update(self._running[path], completed=event.epoch)
            return
        self._ended += 1
        if path in self._running:
            self.bars.remove_task(self._running.pop(path))
        outcome = "done" if event.failure is None else f"FAILED: {event.failure}"
        self.show(f"[{self._ended}/{self._total}] {path}: {outcome}", completed=self._ended)
        if event.failure is not None and self.console.is_terminal:
            text = escape(f"{path}: {event.failure}")
            self.console.print(f"[red]failed[/red] {text}", highlight=False)


class CountView(View):
    """Shows the number of finished items."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        super().__init__(console, what, total)
        self._what = what

    def watch(self, done: int, total: int) -> None:
        """Shows the number of finished items."""
        tenth = done % max(total // 10, 1) == 0 or done == total
        self.show(f"{self._what} {done}/{total}" if tenth else "", completed=done)


class BenchView(View):
    """Shows the measurements of the current case."""

    def __init__(self, console: Console) -> None:
        # No other thread may run during timings.
        super().__init__(console, "measurements", 1, by_itself=False)
        self._case = ""

    def begin(self, case: str) -> None:
        """Shows the next case."""
        self._case = case
        self.bars.reset(self.bar, description=case, total=1, note="getting ready")
        self.bars.refresh()

    def watch(self, done: int, total: int) -> None:
        """Shows the number of finished measurements."""
        line = f"{self._case}: {total} measurements done" if done == total else ""
        self.show(line, completed=done, total=total, note="", refresh=True)


class AnalyzeView(View):
    """Shows the current analysis, and the number of batches that it has processed."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, "analyses", total)
        self._what, self._seen = "", 0

    def begin(self, what: str) -> None:
        """Shows the next analysis."""
        self._what, self._seen = what, 0
        self.show(note=what)

    def tick(self) -> None:
        """Counts a batch."""
        self._seen += 1
        self.show(note=f"{self._what}: {self._seen} batches")

    def end(self, outcome: str) -> None:
        """Shows the end of the analysis."""
        self.show(f"{self._what}: {outcome}", advance=1)
