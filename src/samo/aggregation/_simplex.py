"""Projection onto the simplex."""

from __future__ import annotations

from ._arrays import Array


def onto_simplex(point: Array) -> Array:
    r"""The nearest point of the simplex :math:`\{w \ge 0, \sum_i w_i = 1\}`.

    Args:
        point: Any point, ``[K]``, however far from the simplex: an array or a tensor.

    Returns:
        The nearest point of the simplex.
    """
    # All coordinates less the same number have the same projection. With the largest at 0, rounding
    # does no harm: without it, 1 is lost against coordinates of 1e20.
    shifted = point - point.max()
    ordered = shifted[(-shifted).argsort()]
    counts = (ordered * 0 + 1).cumsum(0)
    thresholds = (ordered.cumsum(0) - 1) / counts
    last = (ordered > thresholds).sum() - 1
    return (shifted - thresholds[last]).clip(min=0)
