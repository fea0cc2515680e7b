"""Euclidean projection onto the simplex."""

from __future__ import annotations

from ._arrays import Array


def onto_simplex(point: Array) -> Array:
    r"""Projects onto the simplex :math:`\{w \ge 0, \sum_i w_i = 1\}`.

    Args:
        point: Any point, ``[K]``, however far from the simplex: an array or a tensor.

    Returns:
        The nearest point of the simplex.

    Example:
        >>> import torch
        >>> onto_simplex(torch.tensor([1.0, 0.5, -2.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    # Subtracting a number from all coordinates does not change their projection. With the largest
    # coordinate at 0, the 1 below is not lost to rounding, even if coordinates are near 1e20.
    shifted = point - point.max()
    ordered = shifted[(-shifted).argsort()]
    counts = (ordered * 0 + 1).cumsum(0)
    thresholds = (ordered.cumsum(0) - 1) / counts
    last = (ordered > thresholds).sum() - 1
    return (shifted - thresholds[last]).clip(min=0)
