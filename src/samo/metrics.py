"""Metrics that compare multi-task methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def delta_m(
    values: Mapping[Any, float] | Sequence[float],
    baseline: Mapping[Any, float] | Sequence[float],
    higher_is_better: Mapping[Any, bool] | Sequence[bool],
) -> float:
    r"""Returns the mean relative performance drop in percent (Δm); lower is better.

    .. math::
        \Delta m = \frac{100}{M} \sum_{k=1}^{M} (-1)^{\delta_k} \frac{v_k - b_k}{|b_k|}

    with δ_k = 1 if a higher value is better, else 0 (SAMO, arXiv 2507.07883, §6; the baseline is
    usually single-task training). As in the published tables, the mean is over the metrics, so a
    task with more metrics has more weight. A negative Δm means better than the baseline. The
    absolute value in the denominator keeps the sign correct for negative baselines (R²).

    Args:
        values: The M values v, by name or in order.
        baseline: The values b of the baseline, with the same names or in the same order.
        higher_is_better: Whether a higher value is better, for each metric.

    Returns:
        Δm in percent.

    Raises:
        TypeError: If some of the three are mappings and some are not.
        ValueError: If their names or lengths differ, they are empty, a value is not finite, or a
            baseline is zero.

    Example:
        >>> values = {"mIoU": 0.75, "error": 2.0}
        >>> baseline = {"mIoU": 0.5, "error": 4.0}
        >>> delta_m(values, baseline, {"mIoU": True, "error": False})
        -50.0
    """
    v, b, up = (_by_name(x) for x in (values, baseline, higher_is_better))
    kinds = {isinstance(x, Mapping) for x in (values, baseline, higher_is_better)}
    if len(kinds) > 1:
        raise TypeError(
            "values, baseline and higher_is_better must be all mappings or all sequences."
        )
    for name, other in (("baseline", b), ("higher_is_better", up)):
        if differing := sorted(map(repr, v.keys() ^ other.keys())):
            raise ValueError(
                f"values and {name} must have the same metrics; only one of them has "
                f"{', '.join(differing)}."
            )
    if not v:
        raise ValueError("values must hold at least one metric; found none.")
    for name, numbers in (("values", v), ("baseline", b)):
        for key, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"{name}[{key!r}] must be finite; found {number}.")
    if zero := [key for key, number in b.items() if number == 0]:
        raise ValueError(f"baseline[{zero[0]!r}] is 0; relative changes need a nonzero baseline.")
    return math.fsum(100 * (-1) ** bool(up[k]) * (v[k] - b[k]) / abs(b[k]) for k in v) / len(v)


def _by_name(values: Mapping[Any, Any] | Iterable[Any]) -> dict[Any, Any]:
    return dict(values) if isinstance(values, Mapping) else dict(enumerate(values))
