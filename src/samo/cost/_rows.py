"""What the measurements of a case come to, a row for each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._statistics import Spread, quartiles, ratio

_FLOAT = 4  # bytes: all cases are in float32


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        name: What it is called.
        forwards: Calls of the closure that record a graph.
        evaluations: Those that do not.
        backwards: Backward passes.
        seconds: How long it takes: median and quartiles; None where it was not timed.
        to_bare: Times its bare arithmetic: median and 95 % interval.
        to_erm: Times the package's own ERM.
        bare_to_erm: Its bare arithmetic, times the package's own ERM.
        aggregating: The share of the time that goes into aggregating.
        peak_bytes: The memory that it takes at most, above the model's own.
        above_one_pass: By how much that is more than one forward and backward pass of the model
            takes, in numbers of float32 per shared parameter (m).
        noise_bytes: The random numbers that it draws.
    """

    name: str
    forwards: int
    evaluations: int
    backwards: int
    seconds: Spread | None
    to_bare: Spread | None
    to_erm: Spread | None
    bare_to_erm: Spread | None
    aggregating: float | None
    peak_bytes: int | None
    above_one_pass: float | None
    noise_bytes: int


def rows(results: Mapping[str, Any]) -> list[Row]:
    """Summarises the results of a case.

    Args:
        results: What `measure` gave.

    Returns:
        A row a step, in the order of the results.
    """
    erm = results["steps"].get("erm", {}).get("seconds", [])
    return [_row(name, entry, results, erm) for name, entry in results["steps"].items()]


def _row(name: str, entry: Mapping[str, Any], results: Mapping[str, Any], erm: list[float]) -> Row:
    bare = results["arithmetic"][entry["arithmetic"]]
    seconds, peak = entry["seconds"], entry.get("peak_bytes")
    pass_peak = results["one_pass"].get("peak_bytes")
    above = None
    if peak is not None and pass_peak is not None:
        above = (peak - pass_peak) / (_FLOAT * results["shared_parameters"])
    shares = np.divide(entry["aggregating"], seconds) if seconds else []
    return Row(
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


def _ratio(ours: list[float], theirs: list[float]) -> Spread | None:
    return ratio(ours, theirs) if ours and theirs else None
