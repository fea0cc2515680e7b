"""ConicGrad: the best direction for the worst-off task, in a cone around the mean gradient."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from ._scale_free import ScaleFree
from .solvers import (
    Array,
    diagonal_of,
    library,
    normalized,
    resolution,
    semidefinite,
    to_tensor,
)

# For gradients of norm 1: a mean gradient shorter than this counts as zero, and so does a smaller
# improvement.
_ZERO = 1e-6
# The tolerances of the duality gap, relative and absolute, and the maximal number of steps; 10 to
# 20 are usual.
_RELATIVE, _ABSOLUTE, _STEPS = 1e-7, 1e-13, 100


@final
class ConicGradWeighting(ConstructorRepr, Weighting[PSDMatrix], ScaleFree):
    """The weighting of `ConicGrad`, with the same options."""

    c: float = ranged(0, 1)

    def __init__(self, c: float = 0.5) -> None:
        super().__init__()
        self.c = c

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``."""
        n = len(gramian)
        cosines, norms = normalized(gramian)
        norms = norms / (float((norms * norms).mean()) ** 0.5 or 1.0)
        unit = semidefinite(cosines, resolution(gramian)) * norms * norms[:, None]
        norm = max(float(unit.mean()), 0.0) ** 0.5
        if norm < _ZERO:  # the gradients cancel: the cone has no axis, and the direction is zero
            return torch.zeros_like(gramian[0])
        cone = _Cone(unit, unit.mean(0) / norm, self.c)
        best, at = _minimized(cone)
        if best.length < _ZERO:  # no direction in the cone improves all tasks: its axis
            weights = at * 0.0 + 1 / n
        else:
            weights = (norm * best.own * at + best.axis / n) / best.length
        return to_tensor(weights, gramian)


@final
class ConicGrad(ConstructorRepr, GramianAggregator):
    r"""The direction that improves the worst-off task most, in a cone around the mean gradient.

    .. math::
        \max_d \min_i g_i^\top d \quad \text{s.t.} \quad
        \cos(d, g_0) \ge c, \quad \|d\| = \|g_0\|, \qquad g_0 = \tfrac{1}{K} \sum_i g_i

    (Hassanpour et al., arXiv 2502.00217). c = 1 gives :math:`g_0`, c = 0 the direction of MGDA. If
    no direction in the cone improves all tasks, d is the axis :math:`g_0`.

    The paper solves a Lagrangian dual of the max-min problem by the Sherman–Morrison–Woodbury
    formula and normalises d; this class uses another algorithm. With P the projection onto the
    cone, :math:`d \propto P(\sum_i w_i g_i)` where w minimises :math:`\|P(\sum_i w_i g_i)\|` over
    the simplex: a smooth convex problem, which an interior-point method solves in float64.

    Args:
        c: The smallest cosine c between the direction and the mean gradient, in [0, 1]. The default
            is this package's choice.

    Raises:
        TypeError: If c is not a number.
        ValueError: If c is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import ConicGrad
        >>> d = ConicGrad(c=0.5)(torch.tensor([[4.0, 0.0], [-1.0, 1.0]]))
        >>> d  # at an angle of 60° to the mean gradient, and of its length
        tensor([0.3170, 1.5490])
    """

    gramian_weighting: ConicGradWeighting
    c: float = of_weighting()

    def __init__(self, c: float = 0.5) -> None:
        super().__init__(ConicGradWeighting(c))


@dataclass(frozen=True)
class _Projection:
    """The projection p = ``own`` g_w + ``axis`` ĝ_0 of g_w = Σ w_i g_i, and F(w) = ½ ‖p‖²."""

    own: float
    axis: float
    length: float
    gradient: Array
    hessian: Array

    @property
    def gap(self) -> float:
        """The duality gap, which bounds the error of 2 F(w)."""
        return self.length**2 - float(self.gradient.min())


@dataclass(frozen=True)
class _Cone:
    """The cone: the Gramian, the inner products of the gradients with the axis ĝ_0, and c."""

    gramian: Array
    along: Array
    c: float

    def projected(self, w: Array) -> _Projection:
        """Projects Σ w_i g_i onto the cone."""
        image = self.gramian @ w
        a, square = float(self.along @ w), max(float(w @ image), 0.0)
        if a >= self.c * math.sqrt(square):
            return _Projection(1.0, 0.0, math.sqrt(square), image, self.gramian)
        s, b = math.sqrt(1 - self.c**2), math.sqrt(max(square - a * a, 0.0))
        t = self.c * a + s * b
        if t <= 0 or b == 0:
            return _Projection(0.0, 0.0, 0.0, image * 0.0, self.gramian * 0.0)
        across = (image - a * self.along) / b
        slope = self.c * self.along + s * across
        bend = self.gramian - _outer(self.along) - _outer(across)
        own, axis = t * s / b, t * (self.c - s * a / b)
        return _Projection(own, axis, t, t * slope, _outer(slope) + own * bend)


def _outer(vector: Array) -> Array:
    return vector[:, None] * vector


def _minimized(cone: _Cone) -> tuple[_Projection, Array]:
    """Minimises F over the simplex by a primal-dual interior-point method.

    Each step is a Newton step on F'(w) - z - y = 0, Σ w = 1, w z = μ, with μ a fraction of its
    current value, shortened so that w and z stay positive.

    Returns:
        The projection at the minimum, and w. A projection shorter than `_ZERO` need not be the
        minimum: how much shorter that is does not matter, and F' is too flat there to tell.
    """
    xp, n = library(), len(cone.along)
    z = cone.along * 0.0 + 1.0
    w = z / n
    here = cone.projected(w)
    for _ in range(_STEPS):
        if here.length < _ZERO or here.gap <= _RELATIVE * here.length**2 + _ABSOLUTE:
            break
        mu = 0.02 * (w @ z) / n
        right = xp.stack([z * 0.0 + 1.0, mu / w - here.gradient])
        hessian = here.hessian * 1.0
        diagonal_of(hessian)[:] += z / w
        of_y, rest = xp.linalg.solve(hessian, right.T).T
        dw = rest - rest.sum() / of_y.sum() * of_y
        dz = mu / w - z - z / w * dw
        furthest = max(float((-dw / w).max()), float((-dz / z).max()))
        step = min(1.0, 0.99 / furthest) if furthest > 0 else 1.0
        w, z = w + step * dw, z + step * dz
        w = w / w.sum()
        here = cone.projected(w)
    else:
        warnings.warn(
            f"ConicGrad did not converge in {_STEPS} steps: the duality gap is {here.gap:.1e} for "
            f"gradients of norm 1.",
            RuntimeWarning,
            stacklevel=2,
        )
    return here, w
