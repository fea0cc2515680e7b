"""ConicGrad: the direction that helps the worst-off task most, within a cone around the mean."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._arrays import Array, diagonal_of, library, to_array, to_tensor
from ._checks import in_range
from ._forward import of_weighting
from ._scale_free import ScaleFree

# For gradients of norm 1: a mean shorter than this has no direction, and a best direction that
# helps by less helps not at all.
_NOTHING = 1e-6
# The duality gap, relative and absolute, at which the direction is found, and the number of steps
# after which it is given up; 10 to 20 are usual.
_RELATIVE, _ABSOLUTE, _STEPS = 1e-7, 1e-13, 100


@final
class ConicGradWeighting(Weighting[PSDMatrix], ScaleFree):
    """The weighting of `ConicGrad`.

    Args:
        c: The smallest cosine between the direction and the mean gradient, in [0, 1].

    Raises:
        TypeError: If c is not a number.
        ValueError: If c is out of its range.
    """

    def __init__(self, c: float = 0.5) -> None:
        super().__init__()
        self.c = in_range("c", c, 0, 1)

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``.
        """
        n = len(gramian)
        unit = to_array(gramian)
        unit = unit / (float(unit.diagonal().mean()) or 1.0)
        norm = max(float(unit.mean()), 0.0) ** 0.5
        if norm < _NOTHING:  # the gradients cancel: the cone has no axis, the direction no length
            return torch.zeros_like(gramian[0])
        cone = _Cone(unit, unit.mean(0) / norm, self.c)
        best, at = _minimized(cone)
        if best.length < _NOTHING:  # no direction of the cone helps all tasks: its axis
            weights = at * 0.0 + 1 / n
        else:
            weights = (norm * best.own * at + best.axis / n) / best.length
        return to_tensor(weights, gramian)

    def __repr__(self) -> str:
        return f"ConicGradWeighting(c={self.c})"


@final
class ConicGrad(GramianWeightedAggregator):
    r"""The direction that helps the worst-off task most, within a cone around the mean gradient.

    .. math::
        \max_d \min_i g_i^\top d \quad \text{s.t.} \quad
        \cos(d, g_0) \ge c, \quad \|d\| = \|g_0\|, \qquad g_0 = \tfrac{1}{K} \sum_i g_i

    (Hassanpour et al., arXiv 2502.00217). c = 1 gives :math:`g_0`, c = 0 the direction of MGDA. If
    no direction of the cone helps all tasks, the cone's axis :math:`g_0` is taken.

    The paper solves a Lagrangian dual of the max-min problem by the Sherman–Morrison–Woodbury
    formula and normalises d; its steps are not followed here. Instead, with P the projection onto
    the cone, :math:`d \propto P(\sum_i w_i g_i)` where w minimises :math:`\|P(\sum_i w_i g_i)\|`
    over the simplex, a smooth convex problem, which an interior-point method solves in float64.

    Args:
        c: The smallest cosine c, in [0, 1]; 0.5 is a choice of this package.

    Example:
        >>> import torch
        >>> from samo.aggregation import ConicGrad
        >>> d = ConicGrad(c=0.5)(torch.tensor([[4.0, 0.0], [-1.0, 1.0]]))
        >>> d  # at an angle of 60° to the mean gradient, and of its length
        tensor([0.3170, 1.5490])
    """

    gramian_weighting: ConicGradWeighting

    def __init__(self, c: float = 0.5) -> None:
        super().__init__(ConicGradWeighting(c))

    c = of_weighting("c")

    def __repr__(self) -> str:
        return f"ConicGrad(c={self.c})"


@dataclass(frozen=True)
class _Projection:
    """The projection of g_w onto the cone, ``own`` g_w + ``axis`` ĝ_0, and F(w) = ½ ‖it‖²."""

    own: float
    axis: float
    length: float
    gradient: Array
    hessian: Array

    @property
    def gap(self) -> float:
        """How far 2 F(w) can be from its minimum over the simplex."""
        return self.length**2 - float(self.gradient.min())


@dataclass(frozen=True)
class _Cone:
    """The cone, by the Gramian and the inner products of the gradients with its axis ĝ_0."""

    gramian: Array
    along: Array
    c: float

    def projected(self, w: Array) -> _Projection:
        """Projects Σ w_i g_i."""
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

    Each step is Newton's on F'(w) - z - y = 0, Σ w = 1, w z = μ, with μ a fraction of its present
    value, as far as w and z stay positive.

    Args:
        cone: The cone.

    Returns:
        The projection at the minimum, and w.
    """
    xp, n = library(), len(cone.along)
    z = cone.along * 0.0 + 1.0
    w = z / n
    here = cone.projected(w)
    for _ in range(_STEPS):
        if here.gap <= _RELATIVE * here.length**2 + _ABSOLUTE:
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
            f"ConicGrad has not found the best direction after {_STEPS} steps: the duality gap is "
            f"{here.gap:.1e} for gradients of norm 1.",
            RuntimeWarning,
            stacklevel=2,
        )
    return here, w
