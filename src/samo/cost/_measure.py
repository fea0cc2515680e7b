"""Measures one case: every step and its bare arithmetic, in alternation, in one process."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..records import differences, read_json, write_json, writing
from ..training import RunError
from ._cases import CASES, Workload, build, case_sizes
from ._machine import machine
from ._meter import Meter, meter
from ._passes import Arithmetic, one_pass, recorded
from ._subjects import Subject

FORMAT = 1
WARM_UP = 2  # examples
_LONG = 1.0  # seconds; longer steps are not repeated
_ENOUGH = 0.2  # seconds; shorter steps are repeated, as in training

Watch = Callable[[int, int], None]
"""Called with the number of finished measurements of a case and their total number."""
Measurement = Callable[[], None]
T = TypeVar("T")


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
    watch: Watch = lambda _done, _total: None,
) -> dict[str, Any]:
    """Runs the measurements that the file does not contain yet.

    Each round times every step and every bare arithmetic once, in an order that changes from round
    to round, so that other load affects all equally. Each has a new engine, and a warm-up step on
    two examples. A step that takes less than a second is then repeated for a fifth of a second, and
    the means are recorded.

    Args:
        wanted: The conditions.
        subjects: The steps.
        file: The file of the results, written after each measurement.
        steps: The number of rounds; by default that of the case.
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
        bench.enter(results, file)
        todo = [*bench.memory(results), *bench.timings(results, rounds)]
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
        self._arithmetic: dict[str, Arithmetic] = {}

    def enter(self, results: dict[str, Any], file: Path) -> None:
        """Enters the passes and the random bytes of each step into the results.

        They are recorded in an engine's second step, since the first determines the partition.

        Raises:
            RunError: If the results have different passes of a step.
        """
        for name, subject in self._subjects.items():
            engine = subject.engine(self._workload, self._method)
            engine.backward(self._warm_up)
            arithmetic, noise = recorded(engine.backward, self._warm_up, self._workload.model)
            self._arithmetic[arithmetic.key] = arithmetic
            entry = {
                "title": subject.title,
                "arithmetic": arithmetic.key,
                "noise_bytes": noise,
                "seconds": [],
                "aggregating": [],
            }
            if results["steps"].setdefault(name, entry)["arithmetic"] != arithmetic.key:
                raise RunError(
                    f"{file} has other passes of {name} than now recorded. Choose another "
                    f"directory, or delete the file."
                )
            bare = {**arithmetic.counts, "seconds": []}
            results["arithmetic"].setdefault(arithmetic.key, bare)

    def memory(self, results: dict[str, Any]) -> Iterator[Measurement]:
        """Yields the missing measurements of memory."""
        works: list[tuple[dict[str, Any], Callable[[], object]]] = []
        plain = one_pass(self._workload.tasks, self._workload.model)
        works.append((results["one_pass"], lambda: self._bare(plain)))
        for key, arithmetic in self._arithmetic.items():
            works.append((results["arithmetic"][key], partial(self._bare, arithmetic)))
        for name, subject in self._subjects.items():
            works.append((results["steps"][name], partial(self._second_step, subject)))
        for entry, work in works:
            if "peak_bytes" not in entry:
                yield partial(self._peak, entry, work)

    def timings(self, results: dict[str, Any], rounds: int) -> Iterator[Measurement]:
        """Yields the missing measurements of time, in their order."""
        takes: list[tuple[list[float], Measurement]] = []
        for key, arithmetic in self._arithmetic.items():
            entry = results["arithmetic"][key]
            takes.append((entry["seconds"], partial(self._time_bare, entry, arithmetic)))
        for name, subject in self._subjects.items():
            entry = results["steps"][name]
            takes.append((entry["seconds"], partial(self._time_step, entry, subject)))
        for number in range(rounds):
            for seconds, take in random.Random(number).sample(takes, len(takes)):
                if len(seconds) <= number:
                    yield take

    def _bare(self, arithmetic: Arithmetic) -> None:
        arithmetic.run(self._losses, self._workload.model)

    def _second_step(self, subject: Subject) -> None:
        """Runs an engine's second step, which includes memory that persists between steps."""
        run = subject.run(self._workload, self._method)
        run(self._warm_up, self._meter)
        self._workload.model.zero_grad()
        run(self._losses, self._meter)

    def _peak(self, entry: dict[str, Any], work: Callable[[], object]) -> None:
        self._workload.model.zero_grad()
        entry["peak_bytes"] = self._meter.peak(work)

    def _time_bare(self, entry: dict[str, Any], arithmetic: Arithmetic) -> None:
        seconds, _ = self._timed(lambda: self._bare(arithmetic))
        entry["seconds"].append(seconds)

    def _time_step(self, entry: dict[str, Any], subject: Subject) -> None:
        run = subject.run(self._workload, self._method)
        run(self._warm_up, self._meter)
        seconds, marks = self._timed(lambda: run(self._losses, self._meter))
        entry["seconds"].append(seconds)
        aggregating = [self._meter.seconds(start, end) for start, end in marks]
        entry["aggregating"].append(sum(aggregating) / len(aggregating))

    def _timed(self, work: Callable[[], T]) -> tuple[float, list[T]]:
        """Times a function, and repeats it if it is short."""
        seconds, found = self._repeated(work, 1)
        if seconds >= _LONG:
            return seconds, found
        return self._repeated(work, math.ceil(_ENOUGH / max(seconds, _ENOUGH / 100)))

    def _repeated(self, work: Callable[[], T], times: int) -> tuple[float, list[T]]:
        """Returns the mean time of several calls, and their results."""
        meter, found = self._meter, list[T]()
        gc.collect()
        gc.disable()
        try:
            meter.wait()
            start = meter.mark()
            for _ in range(times):
                self._workload.model.zero_grad()
                found.append(work())
            end = meter.mark()
            meter.wait()
        finally:
            gc.enable()
        return meter.seconds(start, end) / times, found


def _opened(file: Path, wanted: Conditions, workload: Workload) -> dict[str, Any]:
    """Returns the results so far."""
    fresh: dict[str, Any] = {
        "format": FORMAT,
        "setting": asdict(wanted),
        "machine": machine(torch.device(wanted.device)),
        "parameters": sum(p.numel() for p in workload.model.parameters()),
        "shared_parameters": sum(p.numel() for p in workload.shared),
        "one_pass": {},
        "arithmetic": {},
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
