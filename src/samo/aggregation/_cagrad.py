"""CAGrad: the direction near the mean gradient that improves the worst-off task most."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from ._scale_free import ScaleFree
from .solvers import (
    Array,
    ConvergenceError,
    NonnegativePrograms,
    library,
    normalized,
    resolution,
    to_tensor,
)

_ITERATIONS = 60
# Relative to the squared distance, and to the terms of its sum.
_TOLERANCE, _ROUNDING = 1e-12, 1e-15


@final
class CAGradWeighting(ConstructorRepr, Weighting[PSDMatrix], ScaleFree):
    """The weighting of `CAGrad`, with the same options."""

    c: float = ranged(0)

    def __init__(self, c: float = 0.4) -> None:
        super().__init__()
        self.c = c

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``."""
        cosines, norms = normalized(gramian)
        lengths = norms / (norms.max() or 1.0)
        x = _best(cosines, lengths, self.c, resolution(gramian))
        weights = 1 / len(norms) + x / library().where(norms > 0, lengths, 1.0)
        return to_tensor(weights, gramian)


@final
class CAGrad(ConstructorRepr, GramianAggregator):
    r"""Conflict-averse gradient descent.

    .. math::
        \max_d \min_i g_i^\top d \quad \text{s.t.} \quad \|d - g_0\| \le c \|g_0\|, \qquad
        g_0 = \tfrac{1}{K} \sum_i g_i

    (Liu et al., NeurIPS 2021, arXiv 2110.14048). c = 0 gives :math:`g_0`. If no direction improves
    all tasks, the result is the direction nearest to :math:`g_0` that harms none, as in
    ``DualProj``.

    The authors' code minimises the dual with scipy's SLSQP, TorchJD's class of the same name with
    cvxpy; the latter returns zero if the norm of the dual's solution is below 1e-4 of that of the
    gradients together. Here the problem is solved exactly: the nearest direction to :math:`g_0`
    with :math:`J d \ge t` is a quadratic program, and t increases until the distance is
    :math:`c \|g_0\|`.

    Args:
        c: The radius of the ball, relative to the mean gradient, at least 0. The default is the
            authors' value for most of their experiments.

    Raises:
        TypeError: If c is not a number.
        ValueError: If c is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import CAGrad
        >>> CAGrad(c=0.5)(torch.tensor([[4.0, 0.0], [-2.0, 2.0]]))  # the mean is [1, 1]
        tensor([0.5000, 1.5000])
    """

    gramian_weighting: CAGradWeighting
    c: float = of_weighting()

    def __init__(self, c: float = 0.4) -> None:
        super().__init__(CAGradWeighting(c))


def _best(cosines: Array, norms: Array, c: float, noise: float) -> Array:
    r"""Solves for x ≥ 0 in :math:`d = g_0 + \sum_i x_i g_i / \|g_i\|`.

    The nearest d to :math:`g_0` with :math:`J d \ge t` is the quadratic program of C and
    :math:`q = b - t a`, with :math:`b_i = g_i^\top g_0 / \|g_i\|` and :math:`a_i = 1 / \|g_i\|`.
    Its distance from :math:`g_0` grows with t, and is the root of a quadratic in t for a fixed set
    of positive x.

    Args:
        cosines: C, ``[K, K]``.
        norms: The norms of the gradients, ``[K]``, with the largest near 1.
        c: The radius of the ball, relative to the mean gradient.
        noise: The size of the rounding errors in C.

    Returns:
        x, ``[K]``.

    Raises:
        ConvergenceError: If the iteration does not converge.
    """
    xp, mean, programs = library(), norms / len(norms), NonnegativePrograms(cosines, noise)
    b, a = cosines @ mean, xp.where(norms > 0, 1.0, 0.0) / xp.where(norms > 0, norms, 1.0)
    square = c * c * max(float(mean @ b), 0.0)
    # The largest improvement of one task in the ball; a task with a zero gradient has none.
    low, high = -math.inf, float(((b + square**0.5) * norms).min())
    level, positive = high, None
    for _ in range(_ITERATIONS):
        linear = (b - level * a)[None]
        (x,), positive = programs.solve(linear, positive)
        image = x @ cosines
        if level > 0 and (image + linear[0] < -0.5 * level * a).any():
            level = high = 0.0  # no direction improves all tasks
            continue
        distance = float(x @ image)
        surplus = distance - square
        close = abs(surplus) <= _TOLERANCE * square + _ROUNDING * float(x.sum()) ** 2
        if close or (surplus < 0 and level == high):
            return x
        low, high = (low, level) if surplus > 0 else (level, high)
        (slope,) = programs.equations(positive, -a[None])
        first, second = float(a @ x), float(a @ slope)
        root = max(first * first - second * surplus, 0.0) ** 0.5
        level -= surplus / (first + root)
        if not low < level < high:
            level = (low + high) / 2
    raise ConvergenceError(
        f"CAGrad did not converge in {_ITERATIONS} iterations: the squared distance of its "
        f"direction from the mean gradient has a relative error of {surplus / square:.1e}."
    )
