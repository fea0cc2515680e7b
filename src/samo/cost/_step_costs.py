"""Summarises the measurements of a case, one row for each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._statistics import MedianRange, median_ratio, quartiles
from ._subjects import PLAIN

_FLOAT = 4  # bytes: all cases are in float32


@dataclass(frozen=True)
class StepCost:
    """The cost of one step.

    Attributes:
        name: The name of the step.
        forwards: The number of calls of the closure that record a graph; None, as for the next two,
            if the passes of the step were not recorded.
        evaluations: The number of calls of the closure that do not.
        backwards: The number of backward passes.
        seconds: The time of the step: median and quartiles; None if it was not timed.
        to_plain: The time relative to plain backprop: median and 95 % interval.
        to_bare: The time relative to the bare arithmetic, if this was timed.
        bare_to_plain: The time of the bare arithmetic relative to plain backprop.
        peak_bytes: The peak memory above that of the model.
        peak_to_plain: The peak memory relative to that of plain backprop.
        above_plain: The peak memory above that of plain backprop, in float32 numbers per shared
            parameter (m).
        noise_bytes: The bytes of random numbers.
    """

    name: str
    forwards: int | None
    evaluations: int | None
    backwards: int | None
    seconds: MedianRange | None
    to_plain: MedianRange | None
    to_bare: MedianRange | None
    bare_to_plain: MedianRange | None
    peak_bytes: int | None
    peak_to_plain: float | None
    above_plain: float | None
    noise_bytes: int | None


def step_costs(results: Mapping[str, Any]) -> list[StepCost]:
    """Summarises the results of `measure`, one row for each step."""
    return [_step_cost(name, results) for name in results["steps"]]


def _step_cost(name: str, results: Mapping[str, Any]) -> StepCost:
    entry, plain = results["steps"][name], results["steps"][PLAIN]
    passes = entry.get("passes") or {}
    seconds, bare = entry["seconds"], entry["bare_seconds"]
    peak, of_plain = entry.get("peak_bytes"), plain.get("peak_bytes")
    measured = peak is not None and of_plain is not None
    m = _FLOAT * results["shared_parameters"]
    return StepCost(
        name=name,
        forwards=passes.get("forwards"),
        evaluations=passes.get("evaluations"),
        backwards=passes.get("backwards"),
        seconds=quartiles(seconds) if seconds else None,
        to_plain=_ratio(seconds, plain["seconds"]),
        to_bare=_ratio(seconds, bare),
        bare_to_plain=_ratio(bare, plain["seconds"]),
        peak_bytes=peak,
        peak_to_plain=peak / of_plain if measured else None,
        above_plain=(peak - of_plain) / m if measured else None,
        noise_bytes=entry.get("noise_bytes"),
    )


def _ratio(ours: list[float], theirs: list[float]) -> MedianRange | None:
    return median_ratio(ours, theirs) if ours and theirs else None
