"""Several processes that work off a list of runs."""

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
from typing import IO, Any

from ._plan import Cell

# Sums differ in the last bits with the number of threads; and more threads than cores only cost.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Event:
    """What has become of a run.

    Attributes:
        cell: The run.
        epoch: The epoch that it is in.
        fraction: The share of that epoch that is done.
        ended: Whether it has ended.
        failure: Why it failed, if it did.
        diverged: Whether that is because a loss, gradient or metric was not finite.
    """

    cell: Cell
    epoch: int = 0
    fraction: float = 0.0
    ended: bool = False
    failure: str | None = None
    diverged: bool = False


Source = Generator[Cell, Event, None]
"""Gives the runs that one process is to train, and is told how each one ended."""


class Workers:
    """Processes that train runs, each one run at a time with one thread.

    They are processes of their own and not forks, so that a run's numbers do not depend on what the
    parent did before, nor on how many there are. One that dies takes only its run along.

    Args:
        out: The directory below which the runs have theirs.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue()

    def run(self, sources: Sequence[Source]) -> Generator[Event]:
        """Trains all runs. Left early, for instance by an interrupt, it ends the processes.

        Args:
            sources: Where the runs come from: one source a process. They are gone through in
                threads of their own.

        Yields:
            What becomes of the runs.
        """
        with (self._out / "workers.log").open("a", encoding="utf-8") as log:
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

    def _serve(self, source: Source, log: IO[str]) -> None:
        """Hands the runs of a source to one process, and to another one if it dies."""
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
                    log_file = self._out / "workers.log"
                    reason = f"its process died (exit status {code}; see {log_file})"
                    event = Event(cell, ended=True, failure=reason)
                self._events.put(event)
                cell = _next(source, event)
        except BaseException as error:  # raised where the events are read
            self._events.put(error)
        finally:
            source.close()
            if process is not None:
                _ended(process)
            self._events.put(None)

    def _start(self, log: IO[str]) -> subprocess.Popen[str] | None:
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
                start_new_session=True,  # an interrupt from the keyboard is for the parent
            )
            self._processes.append(process)
            return process

    def _train(self, process: subprocess.Popen[str], cell: Cell) -> Event | None:
        """Has one run trained, and gives its end; None if the process died."""
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"config": cell.config.model_dump(mode="json"), "out": str(self._out / cell.path)}
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
    """Closes what leads to a process, by which it ends if it has not yet, and gives its status."""
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
    """Divides a list of runs among processes: each takes the next one when it is free.

    Args:
        cells: The runs.
        n: How many processes.

    Returns:
        A source a process.
    """
    todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        todo.put(cell)

    def source() -> Source:
        while True:
            try:
                yield todo.get_nowait()
            except queue.Empty:
                return

    return [source() for _ in range(n)]


def _next(source: Source, event: Event) -> Cell | None:
    try:
        return source.send(event)
    except StopIteration:
        return None
