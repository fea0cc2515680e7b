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
    """Bars that are shown within a block.

    Args:
        console: The console.
        what: The label of the first bar.
        total: Its total.
        by_itself: Whether a thread redraws the bars ten times a second.
    """

    def __init__(self, console: Console, what: str, total: int, *, by_itself: bool = True) -> None:
        self._console = console
        self._bars = Bars(
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
        self._bar = self._bars.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _line(self, text: str) -> None:
        """Prints a line if there are no bars."""
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class TrainView(View):
    """Shows the epochs of a run."""

    def __init__(self, console: Console, epochs: int) -> None:
        super().__init__(console, "epoch", epochs)

    def watch(self, progress: Progress) -> None:
        """Shows the progress after a step or an epoch."""
        if progress.record is None:
            done = progress.epoch - 1 + (progress.step / progress.steps if progress.steps else 0)
            self._bars.update(self._bar, completed=int(done))
            return
        note = f"training/validation: {_scores(progress.record)}"
        self._bars.update(self._bar, completed=progress.epoch, note=note)
        self._line(f"epoch {progress.epoch}/{progress.epochs}  {note}")


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
                self._running[path] = self._bars.add_task(path, total=epochs, note="")
            self._bars.update(self._running[path], completed=event.epoch)
            return
        self._ended += 1
        self._bars.update(self._bar, completed=self._ended)
        if path in self._running:
            self._bars.remove_task(self._running.pop(path))
        outcome = "done" if event.failure is None else f"FAILED: {event.failure}"
        self._line(f"[{self._ended}/{self._total}] {path}: {outcome}")
        if event.failure is not None and self._console.is_terminal:
            text = escape(f"{path}: {event.failure}")
            self._console.print(f"[red]failed[/red] {text}", highlight=False)


class CountView(View):
    """Shows how many things are done."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        super().__init__(console, what, total)
        self._what = what
        self._step = max(total // 10, 1)

    def watch(self, done: int, total: int) -> None:
        """Shows the number of things that are done."""
        self._bars.update(self._bar, completed=done)
        if done % self._step == 0 or done == total:
            self._line(f"{self._what} {done}/{total}")


class AnalyzeView(View):
    """Shows the current analysis, and the number of batches that it has processed."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console, "analyses", total)
        self._what, self._seen = "", 0

    def begins(self, what: str) -> None:
        """Shows the next analysis."""
        self._what, self._seen = what, 0
        self._bars.update(self._bar, note=what)

    def tick(self) -> None:
        """Counts a batch."""
        self._seen += 1
        self._bars.update(self._bar, note=f"{self._what}: {self._seen} batches")

    def ended(self, outcome: str) -> None:
        """Shows the end of an analysis."""
        self._bars.advance(self._bar)
        self._line(f"{self._what}: {outcome}")


class BenchView(View):
    """Shows the measurements of the current case."""

    def __init__(self, console: Console) -> None:
        # No thread may run beside what is timed.
        super().__init__(console, "measurements", 1, by_itself=False)
        self._case = ""

    def begin(self, case: str) -> None:
        """Shows the next case."""
        self._case = case
        self._bars.reset(self._bar, description=case, total=1, note="getting ready")
        self._bars.refresh()

    def watch(self, done: int, total: int) -> None:
        """Shows the number of measurements that are done."""
        self._bars.update(self._bar, completed=done, total=total, note="", refresh=True)
        if done == total:
            self._line(f"{self._case}: {total} measurements done")


class ToyView(View):
    """Shows descents: a bar over the steps of all of them."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console, "steps", steps)
        self._before = 0

    def watch(self, step: int) -> None:
        """Shows the steps of the current descent."""
        self._bars.update(self._bar, completed=self._before + step)

    def ended(self, name: str, steps: int) -> None:
        """Shows the end of a descent."""
        self._before += steps
        self._bars.update(self._bar, completed=self._before, note=name)
        self._line(f"{name}: done")
