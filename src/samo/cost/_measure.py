"""Measures one case: every step, in alternation, in one process."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..records import differences, read_json, write_json, writing
from ..training import RunError
from ._cases import CASES, Workload, build, case_sizes
from ._machine import machine
from ._meter import Meter, meter
from ._passes import recorded
from ._subjects import Subject

FORMAT = 2
WARM_UP = 2  # examples
MOST = 8.0  # seconds; what took as long in earlier rounds is not timed again
_LONG = 1.0  # seconds; longer steps are not repeated
_ENOUGH = 0.2  # seconds; shorter steps are repeated, as in training

Watch = Callable[[int, int], None]
"""Called with the number of finished measurements of a case and their total number."""
Work = Callable[[], object]
Measurement = Callable[[], None]


@dataclass(frozen=True)
class Conditions:
    """The conditions of the measurements in one file.

    Attributes:
        case: The case.
        size: The name of the size.
        numbers: The sizes of the workload: the tasks, the batch and others.
        method: The aggregation method.
        device: The device.
        threads: The number of PyTorch's threads on the CPU.
    """

    case: str
    size: str
    numbers: Mapping[str, int]
    method: str
    device: str
    threads: int


def conditions(
    case: str,
    *,
    size: str | None = None,
    tasks: int | None = None,
    batch: int | None = None,
    method: str = "fairgrad",
    device: str = "cpu",
    threads: int | None = None,
) -> Conditions:
    """Completes the conditions of a measurement.

    Args:
        case: The case.
        size: The name of the size; by default ``"standard"`` on the CPU and ``"full"`` on a GPU.
        tasks: Replaces the number of tasks of the size.
        batch: Replaces the batch of the size.
        method: The aggregation method.
        device: ``"cpu"`` or ``"cuda"``.
        threads: The number of PyTorch's threads on the CPU; by default unchanged.

    Returns:
        The conditions.

    Raises:
        RunError: If a name is unknown, a number is out of its range, or the device is missing.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise RunError(f"device must be cpu or cuda; found {device!r}.") from error
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu: there is no CUDA device"
        raise RunError(f"device must be {there}; found {device!r}.")
    if threads is not None and threads < 1:
        raise RunError(f"threads must be at least 1; found {threads}.")
    size = size or ("full" if kind == "cuda" else "standard")
    found = case_sizes(case, size, tasks, batch)
    return Conditions(case, size, found, method, device, threads or torch.get_num_threads())


def measure(
    wanted: Conditions,
    subjects: Mapping[str, Subject],
    file: Path,
    *,
    steps: int | None = None,
    bare: bool = False,
    watch: Watch = lambda _done, _total: None,
) -> dict[str, Any]:
    """Runs the measurements that the file does not contain yet.

    Each round times every step once, in an order that changes from round to round, so that other
    load affects all equally. Each has a new engine, and a warm-up step on two examples. A step that
    takes less than a second is then repeated for a fifth of a second, and the means are recorded. A
    step that took eight seconds or more in earlier rounds is left out.

    Args:
        wanted: The conditions.
        subjects: The steps.
        file: The file of the results, written after each measurement.
        steps: The number of rounds; by default that of the case.
        bare: Whether to time the bare arithmetic of each step as well.
        watch: Called with the progress.

    Returns:
        All results, as in the file.

    Raises:
        RunError: If the file cannot be read or written, or has other conditions or another machine.
    """
    device = torch.device(wanted.device)
    rounds = CASES[wanted.case].steps if steps is None else steps
    with _threads(wanted.threads), torch.random.fork_rng(devices=[]), _short_collections():
        workload = build(wanted.case, wanted.numbers, device)
        bench = _Bench(workload, wanted.method, meter(device), subjects)
        results = _opened(file, wanted, workload)
        bench.enter(results)
        todo = [*bench.memory(results), *bench.timings(results, rounds, bare=bare)]
        for done, measurement in enumerate(todo):
            watch(done, len(todo))
            measurement()
            _write(file, results)
        watch(len(todo), len(todo))
    return results


class _Bench:
    """Measures one workload.

    Args:
        workload: The workload.
        method: The aggregation method.
        meter: The meter of the device.
        subjects: The steps.
    """

    def __init__(
        self, workload: Workload, method: str, meter: Meter, subjects: Mapping[str, Subject]
    ) -> None:
        self._workload = workload
        self._method = method
        self._meter = meter
        self._subjects = subjects
        self._losses, self._warm_up = workload.losses(), workload.losses(WARM_UP)

    def enter(self, results: dict[str, Any]) -> None:
        """Enters the steps into the results."""
        for name, subject in self._subjects.items():
            entry = {"title": subject.title, "seconds": [], "bare_seconds": []}
            results["steps"].setdefault(name, entry)

    def memory(self, results: dict[str, Any]) -> Iterator[Measurement]:
        """Yields the missing measurements of memory, passes and random bytes."""
        for name, subject in self._subjects.items():
            entry = results["steps"][name]
            if "peak_bytes" not in entry:
                yield partial(self._inspect, entry, subject)

    def timings(self, results: dict[str, Any], rounds: int, *, bare: bool) -> Iterator[Measurement]:
        """Yields the missing measurements of time, in their order."""
        takes: list[tuple[list[float], Callable[[], Work]]] = []
        for name, subject in self._subjects.items():
            entry = results["steps"][name]
            takes.append((entry["seconds"], partial(self._step, subject)))
            if bare and subject.recorded:
                takes.append((entry["bare_seconds"], partial(self._bare, subject)))
        for number in range(rounds):
            for seconds, prepare in random.Random(number).sample(takes, len(takes)):
                if len(seconds) <= number:
                    yield partial(self._time, seconds, prepare)

    def _step(self, subject: Subject) -> Work:
        """Returns a step of a new engine, after a step on fewer examples."""
        run = subject.create(self._workload, self._method)
        run(self._warm_up)
        self._workload.model.zero_grad()
        return partial(run, self._losses)

    def _bare(self, subject: Subject) -> Work:
        """Returns the passes of a step."""
        run, model = subject.create(self._workload, self._method), self._workload.model
        arithmetic, _ = recorded(run, self._warm_up, model)
        model.zero_grad()
        return partial(arithmetic.run, self._losses, model)

    def _inspect(self, entry: dict[str, Any], subject: Subject) -> None:
        """Records the passes of a step, and its memory with what persists from the step before."""
        entry["passes"] = entry["noise_bytes"] = None
        model = self._workload.model

        def two_steps() -> None:
            run = subject.create(self._workload, self._method)
            if subject.recorded:
                arithmetic, entry["noise_bytes"] = recorded(run, self._warm_up, model)
                entry["passes"] = arithmetic.counts
            else:
                run(self._warm_up)
            model.zero_grad()
            run(self._losses)

        model.zero_grad()
        entry["peak_bytes"] = self._meter.peak(two_steps)

    def _time(self, seconds: list[float], prepare: Callable[[], Work]) -> None:
        """Times a function, and repeats it if it is short."""
        if sum(seconds) < MOST:
            work = prepare()
            once = self._repeated(work, 1)
            if once < _LONG:
                once = self._repeated(work, math.ceil(_ENOUGH / max(once, _ENOUGH / 100)))
            seconds.append(once)

    def _repeated(self, work: Work, times: int) -> float:
        """Returns the mean time of several calls."""
        meter = self._meter
        gc.collect()
        gc.disable()
        try:
            meter.wait()
            start = meter.mark()
            for _ in range(times):
                self._workload.model.zero_grad()
                work()
            end = meter.mark()
            meter.wait()
        finally:
            gc.enable()
        return meter.seconds(start, end) / times


def _opened(file: Path, wanted: Conditions, workload: Workload) -> dict[str, Any]:
    """Returns the results so far."""
    fresh: dict[str, Any] = {
        "format": FORMAT,
        "setting": asdict(wanted),
        "machine": machine(torch.device(wanted.device)),
        "parameters": sum(p.numel() for p in workload.model.parameters()),
        "shared_parameters": sum(p.numel() for p in workload.shared),
        "steps": {},
    }
    if not file.exists():
        return fresh
    results = read_results(file)
    for key in ("setting", "machine"):
        if differing := differences(results[key], fresh[key]):
            raise RunError(
                f"{file} has another {key}: {differing}. Choose another directory, or delete it."
            )
    return results


def read_results(file: Path) -> dict[str, Any]:
    """Returns the results in a file of `measure`.

    Raises:
        RunError: If it cannot be read, or contains anything else.
    """
    results: Any = read_json(file)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise RunError(f"{file} does not contain results of samo bench in format {FORMAT}.")
    return results


def _write(file: Path, results: dict[str, Any]) -> None:
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, results)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _short_collections() -> Iterator[None]:
    """Restricts garbage collections to new objects, since one runs before each timing."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
