"""Measuring one case: every step and its bare arithmetic, in turn, in one process."""

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

from ..records import differences, read_json, write_json
from ..training import RunError
from ._cases import CASES, Problem, build, numbers
from ._machine import machine
from ._meter import Meter, meter
from ._passes import Arithmetic, one_pass, recorded
from ._subjects import Subject

FORMAT = 1
WARM_UP = 2  # examples
_LONG = 1.0  # seconds: a step that takes longer needs no other one before it
_ENOUGH = 0.2  # seconds: shorter ones are taken in a row, as in training

Watch = Callable[[int, int], None]
"""Is told how many of how many measurements of a case are done."""
Measurement = Callable[[], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What a file of results is of.

    Attributes:
        case: The case.
        size: Its size.
        numbers: All that the problem is built from: the tasks, the batch and others.
        method: The method that aggregates.
        device: Where.
        threads: How many threads torch has on the CPU.
    """

    case: str
    size: str
    numbers: Mapping[str, int]
    method: str
    device: str
    threads: int


def setting(
    case: str,
    *,
    size: str | None = None,
    tasks: int | None = None,
    batch: int | None = None,
    method: str = "fairgrad",
    device: str = "cpu",
    threads: int | None = None,
) -> Setting:
    """Completes what a case is measured at.

    Args:
        case: The case.
        size: Its size; the standard one on the CPU if left out, and the full one on a GPU.
        tasks: Another number of tasks than the size has.
        batch: Another batch than the size has.
        method: The method that aggregates.
        device: ``"cpu"`` or ``"cuda"``.
        threads: How many threads torch has on the CPU; as many as it chose if left out.

    Returns:
        The setting.

    Raises:
        RunError: If a name is unknown, a number out of its range, or the device is not there.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise RunError(f"device must be cpu or cuda; found {device!r}.") from error
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        there = "cpu or cuda" if torch.cuda.is_available() else "cpu: there is no CUDA device here"
        raise RunError(f"device must be {there}; found {device!r}.")
    if threads is not None and threads < 1:
        raise RunError(f"threads must be at least 1; found {threads}.")
    size = size or ("full" if kind == "cuda" else "standard")
    found = numbers(case, size, tasks, batch)
    return Setting(case, size, found, method, device, threads or torch.get_num_threads())


def measure(
    wanted: Setting,
    subjects: Mapping[str, Subject],
    file: Path,
    *,
    steps: int | None = None,
    watch: Watch = lambda _done, _total: None,
) -> dict[str, Any]:
    """Measures what the file does not hold yet.

    In each round every step and every bare arithmetic is taken once, in an order that changes from
    round to round, so that what else the machine does falls on all alike. Each gets an engine of
    its own, and a step on two examples before; where it takes less than a second, one on the whole
    batch as well, and then as many in a row as take a fifth of a second: their mean is kept.

    Args:
        wanted: The setting.
        subjects: The steps.
        file: Where the results are kept, after each measurement.
        steps: How often each is timed; the case's own number if left out.
        watch: Is told how far it is.

    Returns:
        All results, as the file holds them.

    Raises:
        RunError: If the file cannot be read or written, or is of another setting or machine.
    """
    device = torch.device(wanted.device)
    rounds = CASES[wanted.case].steps if steps is None else steps
    with _threads(wanted.threads), torch.random.fork_rng(devices=[]), _short_collections():
        problem = build(wanted.case, wanted.numbers, device)
        bench = _Bench(problem, wanted.method, meter(device), subjects)
        results = _opened(file, wanted, problem)
        bench.enter(results, file)
        todo = [*bench.memory(results), *bench.timings(results, rounds)]
        for done, measurement in enumerate(todo):
            watch(done, len(todo))
            measurement()
            _write(file, results)
        watch(len(todo), len(todo))
    return results


class _Bench:
    """Measures one problem.

    Args:
        problem: The problem.
        method: The method.
        meter: The device's meter.
        subjects: The steps.
    """

    def __init__(
        self, problem: Problem, method: str, meter: Meter, subjects: Mapping[str, Subject]
    ) -> None:
        self._problem = problem
        self._method = method
        self._meter = meter
        self._subjects = subjects
        self._losses, self._warm_up = problem.losses(), problem.losses(WARM_UP)
        self._arithmetic: dict[str, Arithmetic] = {}

    def enter(self, results: dict[str, Any], file: Path) -> None:
        """Makes a place in the results for each step, with its passes and its noise.

        They are those of an engine's second step: the first one finds the partition.

        Raises:
            RunError: If the results are of other passes than are made now.
        """
        for name, subject in self._subjects.items():
            engine = subject.engine(self._problem, self._method)
            engine.backward(self._warm_up)
            arithmetic, noise = recorded(engine.backward, self._warm_up, self._problem.model)
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
                    f"{file} has other passes of {name} than it takes now. Name another "
                    f"directory, or delete the file."
                )
            bare = {**arithmetic.counts, "seconds": []}
            results["arithmetic"].setdefault(arithmetic.key, bare)

    def memory(self, results: dict[str, Any]) -> Iterator[Measurement]:
        """The measurements of memory that are missing."""
        works: list[tuple[dict[str, Any], Callable[[], object]]] = []
        plain = one_pass(self._problem.tasks, self._problem.model)
        works.append((results["one_pass"], lambda: self._bare(plain)))
        for key, arithmetic in self._arithmetic.items():
            works.append((results["arithmetic"][key], partial(self._bare, arithmetic)))
        for name, subject in self._subjects.items():
            works.append((results["steps"][name], partial(self._second_step, subject)))
        for entry, work in works:
            if "peak_bytes" not in entry:
                yield partial(self._peak, entry, work)

    def timings(self, results: dict[str, Any], rounds: int) -> Iterator[Measurement]:
        """The measurements of time that are missing, in the order in which they are taken."""
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
        arithmetic.run(self._losses, self._problem.model)

    def _second_step(self, subject: Subject) -> None:
        """A step, with all that is kept from step to step."""
        run = subject.run(self._problem, self._method)
        run(self._warm_up, self._meter)
        self._problem.model.zero_grad()
        run(self._losses, self._meter)

    def _peak(self, entry: dict[str, Any], work: Callable[[], object]) -> None:
        self._problem.model.zero_grad()
        entry["peak_bytes"] = self._meter.peak(work)

    def _time_bare(self, entry: dict[str, Any], arithmetic: Arithmetic) -> None:
        seconds, _ = self._timed(lambda: self._bare(arithmetic))
        entry["seconds"].append(seconds)

    def _time_step(self, entry: dict[str, Any], subject: Subject) -> None:
        run = subject.run(self._problem, self._method)
        run(self._warm_up, self._meter)
        seconds, (start, end) = self._timed(lambda: run(self._losses, self._meter))
        entry["seconds"].append(seconds)
        entry["aggregating"].append(self._meter.seconds(start, end))

    def _timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """Does something, and again if it was short, as often as it takes to be measurable."""
        seconds, found = self._repeated(work, 1)
        if seconds >= _LONG:
            return seconds, found
        return self._repeated(work, math.ceil(_ENOUGH / max(seconds, _ENOUGH / 100)))

    def _repeated(self, work: Callable[[], T], times: int) -> tuple[float, T]:
        """The mean time, and what the last one gave."""
        meter = self._meter
        gc.collect()
        gc.disable()
        try:
            meter.wait()
            start = meter.mark()
            for _ in range(times):
                self._problem.model.zero_grad()
                found = work()
            end = meter.mark()
            meter.wait()
        finally:
            gc.enable()
        return meter.seconds(start, end) / times, found


def _opened(file: Path, wanted: Setting, problem: Problem) -> dict[str, Any]:
    """The results so far."""
    fresh: dict[str, Any] = {
        "format": FORMAT,
        "setting": asdict(wanted),
        "machine": machine(torch.device(wanted.device)),
        "parameters": sum(p.numel() for p in problem.model.parameters()),
        "shared_parameters": sum(p.numel() for p in problem.shared),
        "one_pass": {},
        "arithmetic": {},
        "steps": {},
    }
    if not file.exists():
        return fresh
    results = load(file)
    for key in ("setting", "machine"):
        if differing := differences(results[key], fresh[key]):
            raise RunError(
                f"{file} is of another {key}: {differing}. Name another directory, or delete it."
            )
    return results


def load(file: Path) -> dict[str, Any]:
    """Reads results.

    Args:
        file: What `measure` has written.

    Returns:
        What it holds.

    Raises:
        RunError: If it cannot be read, or holds something else.
    """
    results: Any = read_json(file)
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise RunError(f"{file} does not hold results of samo bench in format {FORMAT}.")
    return results


def _write(file: Path, results: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, results)
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error}") from error


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
    """Lets the garbage collector look at new objects only, since it runs before each timing."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
