"""Summarises the measurements of a case, one row for each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._statistics import MedianRange, median_ratio, quartiles

_FLOAT = 4  # bytes: all cases are in float32


@dataclass(frozen=True)
class StepCost:
    """The cost of one step.

    Attributes:
        name: The name of the step.
        forwards: The number of calls of the closure that record a graph.
        evaluations: The number of calls of the closure that do not.
        backwards: The number of backward passes.
        seconds: The time of the step: median and quartiles; None if it was not timed.
        to_bare: The time relative to the bare arithmetic: median and 95 % interval.
        to_erm: The time relative to the package's ERM.
        bare_to_erm: The time of the bare arithmetic relative to the package's ERM.
        aggregating: The share of the time that the aggregation takes.
        peak_bytes: The peak memory above that of the model.
        above_one_pass: The peak memory above that of one forward and backward pass, in float32
            numbers per shared parameter (m).
        noise_bytes: The bytes of random numbers.
    """

    name: str
    forwards: int
    evaluations: int
    backwards: int
    seconds: MedianRange | None
    to_bare: MedianRange | None
    to_erm: MedianRange | None
    bare_to_erm: MedianRange | None
    aggregating: float | None
    peak_bytes: int | None
    above_one_pass: float | None
    noise_bytes: int


def step_costs(results: Mapping[str, Any]) -> list[StepCost]:
    """Summarises the results of `measure`, one row for each step."""
    erm = results["steps"].get("erm", {}).get("seconds", [])
    return [_step_cost(name, entry, results, erm) for name, entry in results["steps"].items()]


def _step_cost(
    name: str, entry: Mapping[str, Any], results: Mapping[str, Any], erm: list[float]
) -> StepCost:
    bare = results["arithmetic"][entry["arithmetic"]]
    seconds, peak = entry["seconds"], entry.get("peak_bytes")
    pass_peak = results["one_pass"].get("peak_bytes")
    above = None
    if peak is not None and pass_peak is not None:
        above = (peak - pass_peak) / (_FLOAT * results["shared_parameters"])
    shares = np.divide(entry["aggregating"], seconds) if seconds else []
    return StepCost(
        name=name,
        forwards=bare["forwards"],
        evaluations=bare["evaluations"],
        backwards=bare["backwards"],
        seconds=quartiles(seconds) if seconds else None,
        to_bare=_ratio(seconds, bare["seconds"]),
        to_erm=_ratio(seconds, erm),
        bare_to_erm=_ratio(bare["seconds"], erm),
        aggregating=float(np.median(shares)) if seconds else None,
        peak_bytes=peak,
        above_one_pass=above,
        noise_bytes=entry["noise_bytes"],
    )


def _ratio(ours: list[float], theirs: list[float]) -> MedianRange | None:
    return median_ratio(ours, theirs) if ours and theirs else None
