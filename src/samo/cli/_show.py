"""What is seen while runs go on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.progress import TaskID as BarID
from rich.table import Table

from ..training import Event, Progress, reported


def _bars(console: Console, *, by_itself: bool) -> Bars:
    return Bars(
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


def _percentages(record: dict[str, Any]) -> str:
    """The first metric of each task, on training and validation data."""
    parts = []
    for task, scores in record["validation"].items():
        name = next(iter(scores))
        parts.append(f"{task} {record['train'][task][name]:.1f}/{scores[name]:.1f}")
    return "  ".join(parts)


class View:
    """Bars that are there within a block.

    Args:
        console: Where to.
        by_itself: Whether a thread draws them anew ten times a second.
    """

    def __init__(self, console: Console, *, by_itself: bool = True) -> None:
        self._console = console
        self._bars = _bars(console, by_itself=by_itself)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _line(self, text: str) -> None:
        """Prints a line where there are no bars."""
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)


class TrainView(View):
    """Shows one run, by epochs.

    Args:
        console: Where to.
        epochs: How many there are.
    """

    def __init__(self, console: Console, epochs: int) -> None:
        super().__init__(console)
        self._bar = self._bars.add_task("epoch", total=epochs, note="")

    def watch(self, progress: Progress) -> None:
        """Takes notice of a step or of an epoch's end.

        Args:
            progress: How far the run is.
        """
        if progress.record is None:
            done = progress.epoch - 1 + (progress.step / progress.steps if progress.steps else 0)
            self._bars.update(self._bar, completed=int(done))
            return
        note = f"training/validation: {_percentages(progress.record)}"
        self._bars.update(self._bar, completed=progress.epoch, note=note)
        self._line(f"epoch {progress.epoch}/{progress.epochs}  {note}")


class CompareView(View):
    """Shows many runs: a bar for all, and one for each that is going on.

    Args:
        console: Where to.
        total: The number of runs.
    """

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console)
        self._total = total
        self._ended = 0
        self._all = self._bars.add_task("[bold]runs", total=total, note="")
        self._running: dict[str, BarID] = {}

    def watch(self, event: Event) -> None:
        """Takes notice of what became of a run.

        Args:
            event: What became of it.
        """
        path, epochs = event.cell.path, event.cell.config.epochs
        if not event.ended:
            if path not in self._running:
                self._running[path] = self._bars.add_task(path, total=epochs, note="")
            self._bars.update(self._running[path], completed=event.epoch)
            return
        self._ended += 1
        self._bars.update(self._all, completed=self._ended)
        if path in self._running:
            self._bars.remove_task(self._running.pop(path))
        outcome = "done" if event.failure is None else f"FAILED: {event.failure}"
        self._line(f"[{self._ended}/{self._total}] {path}: {outcome}".replace("[", r"\[", 1))
        if event.failure is not None and self._console.is_terminal:
            self._console.print(f"[red]failed[/red] {path}: {event.failure}", highlight=False)


class CountView(View):
    """Shows how many of many things are done.

    Args:
        console: Where to.
        what: What is counted.
        total: How many there are.
    """

    def __init__(self, console: Console, what: str, total: int) -> None:
        super().__init__(console)
        self._what = what
        self._step = max(total // 10, 1)
        self._bar = self._bars.add_task(what, total=total, note="")

    def watch(self, done: int, total: int) -> None:
        """Takes notice of how many are done.

        Args:
            done: How many.
            total: Of how many.
        """
        self._bars.update(self._bar, completed=done)
        if done % self._step == 0 or done == total:
            self._line(f"{self._what} {done}/{total}")


def scores_table(results: dict[str, Any]) -> Table:
    """The scores by which a finished run is reported.

    Args:
        results: What ``results.json`` holds.

    Returns:
        A table with a row for each metric.
    """
    scores = reported(results)
    if "epochs" in scores:
        title = f"mean of epochs {scores['epochs'][0]} to {scores['epochs'][-1]}"
    else:
        title = f"epoch {scores['epoch']}, the best on validation data"
    table = Table(title=title)
    for heading in ("task", "metric", "validation", "test"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for task, metrics in results["metrics"].items():
        units = {name: about["unit"] for name, about in metrics.items()} | {"loss": ""}
        for name, unit in units.items():
            values = [scores[split][task][name] for split in ("validation", "test")]
            label = f"{name} ({unit})" if unit else name
            table.add_row(task, label, *(f"{value:.4g}" for value in values))
    return table
