"""Several processes that work off a list of runs."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
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
    """

    cell: Cell
    epoch: int = 0
    fraction: float = 0.0
    ended: bool = False
    failure: str | None = None


class Workers:
    """Processes that train runs, each one run at a time with one thread.

    They are processes of their own and not forks, so that a run's numbers do not depend on what the
    parent did before, nor on how many there are. One that dies takes only its run along.

    Args:
        jobs: How many.
        out: The directory below which the runs have theirs.
    """

    def __init__(self, jobs: int, out: Path) -> None:
        self._jobs = jobs
        self._out = out
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._events: queue.Queue[Event] = queue.Queue()

    def run(self, cells: Sequence[Cell]) -> Generator[Event]:
        """Trains all runs. Left early, for instance by an interrupt, it ends the processes.

        Args:
            cells: The runs.

        Yields:
            What becomes of them.
        """
        todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        for cell in cells:
            todo.put(cell)
        with (self._out / "workers.log").open("a", encoding="utf-8") as log:
            threads = [
                threading.Thread(target=self._serve, args=(todo, log), daemon=True)
                for _ in range(min(self._jobs, len(cells)))
            ]
            for thread in threads:
                thread.start()
            try:
                ended = 0
                while ended < len(cells):
                    event = self._events.get()
                    ended += event.ended
                    yield event
            finally:
                self._stop()
                for thread in threads:
                    thread.join()

    def _stop(self) -> None:
        with self._lock:
            self._stopped.set()
            for process in self._processes:
                process.kill()

    def _serve(self, todo: queue.SimpleQueue[Cell], log: IO[str]) -> None:
        """Hands runs to one process, and to another one if it dies."""
        process: subprocess.Popen[str] | None = None
        while not self._stopped.is_set():
            try:
                cell = todo.get_nowait()
            except queue.Empty:
                break
            if process is None:
                process = self._start(log)
            if process is None or self._train(process, cell):
                continue
            code = _ended(process)
            process = None
            if not self._stopped.is_set():
                reason = f"its process died (exit status {code}; see {self._out / 'workers.log'})"
                self._events.put(Event(cell, ended=True, failure=reason))
        if process is not None:
            _ended(process)

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

    def _train(self, process: subprocess.Popen[str], cell: Cell) -> bool:
        """Has one run trained; False if the process died."""
        assert process.stdin is not None
        assert process.stdout is not None
        order = {"config": cell.config.model_dump(mode="json"), "out": str(self._out / cell.path)}
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return False
        for line in process.stdout:
            event = _event(cell, json.loads(line))
            self._events.put(event)
            if event.ended:
                return True
        return False


def _ended(process: subprocess.Popen[str]) -> int:
    """Closes what leads to a process, by which it ends if it has not yet, and gives its status."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):
            pipe.close()
    return process.wait()


def _event(cell: Cell, message: dict[str, Any]) -> Event:
    if "epoch" not in message:
        return Event(cell, ended=True, failure=message.get("failed"))
    steps = message["steps"]
    return Event(cell, message["epoch"], message["step"] / steps if steps else 0.0)
