"""Worker processes that train runs."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..records import open_to_append
from ._plan import Cell

# The number of threads changes the rounding of sums, and more threads than cores are slower.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Event:
    """Progress or end of a run.

    Attributes:
        cell: The run.
        epoch: The current epoch.
        fraction: The completed share of that epoch.
        ended: Whether the run has ended.
        failure: Why it failed, if it did.
        diverged: Whether it failed because a loss, gradient or metric was not finite.
    """

    cell: Cell
    epoch: int = 0
    fraction: float = 0.0
    ended: bool = False
    failure: str | None = None
    diverged: bool = False


Source = Generator[Cell, Event, None]
"""Yields the runs for one process; receives the last event of each."""


class Workers:
    """Processes that each train one run at a time, with one thread.

    They are spawned, not forked, so a run's numbers depend neither on the state of the parent nor
    on the number of processes. If one dies, only its current run fails.

    Args:
        out: The parent of the runs' directories.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue()

    def run(self, sources: Sequence[Source]) -> Generator[Event]:
        """Trains the runs of a source in each process; closing the generator kills them."""
        with open_to_append(self._out / "workers.log") as log:
            threads = [
                threading.Thread(target=self._serve, args=(source, log), daemon=True)
                for source in sources
            ]
            for thread in threads:
                thread.start()
            try:
                yield from self._reports(len(threads))
            finally:
                self._stop()
                for thread in threads:
                    thread.join()

    def _reports(self, threads: int) -> Generator[Event]:
        while threads:
            report = self._events.get()
            if report is None:
                threads -= 1
            elif isinstance(report, BaseException):
                raise report
            else:
                yield report

    def _stop(self) -> None:
        with self._lock:
            self._stopped.set()
            for process in self._processes:
                process.kill()

    def _serve(self, source: Source, log: BinaryIO) -> None:
        """Trains the runs of a source in one process, which is replaced if it dies."""
        process: subprocess.Popen[str] | None = None
        try:
            cell = next(source, None)
            while cell is not None and not self._stopped.is_set():
                process = process or self._start(log)
                if process is None:
                    break
                event = self._train(process, cell)
                if event is None:
                    code = _ended(process)
                    process = None
                    if self._stopped.is_set():
                        break
                    reason = f"its process died (exit status {code}; see {log.name})"
                    event = Event(cell, ended=True, failure=reason)
                self._events.put(event)
                cell = _next(source, event)
        except BaseException as error:  # re-raised in `_reports`
            self._events.put(error)
        finally:
            source.close()
            if process is not None:
                _ended(process)
            self._events.put(None)

    def _start(self, log: BinaryIO) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._stopped.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "samo.training._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # an interrupt from the keyboard goes to the parent only
            )
            self._processes.append(process)
            return process

    def _train(self, process: subprocess.Popen[str], cell: Cell) -> Event | None:
        """Trains one run in a process and returns its end; None if the process died."""
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"config": cell.config.plain(), "out": str(self._out / cell.path)}
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in process.stdout:
            event = _event(cell, json.loads(line))
            if event.ended:
                return event
            self._events.put(event)
        return None


def _ended(process: subprocess.Popen[str]) -> int:
    """Closes the pipes of a process, which makes it end, and returns its exit status."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()
    return process.wait()


def _event(cell: Cell, message: dict[str, Any]) -> Event:
    if "epoch" not in message:
        failure, diverged = message.get("failed"), bool(message.get("diverged"))
        return Event(cell, ended=True, failure=failure, diverged=diverged)
    steps = message["steps"]
    return Event(cell, message["epoch"], message["step"] / steps if steps else 0.0)


def in_order(cells: Iterable[Cell], n: int) -> list[Source]:
    """Divides runs among `n` processes; each takes the next run when it is free."""
    todo = queue.SimpleQueue[Cell]()
    for cell in cells:
        todo.put(cell)

    def source() -> Source:
        with suppress(queue.Empty):
            while True:
                yield todo.get_nowait()

    return [source() for _ in range(n)]


def _next(source: Source, event: Event) -> Cell | None:
    try:
        return source.send(event)
    except StopIteration:
        return None
