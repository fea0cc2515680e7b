"""The two classic toy problems of the multi-task literature."""

from __future__ import annotations

import torch
from torch import Tensor

from ._problem import Box, Problem

_SMALLEST = 5e-6  # the lower bound of the logarithm's argument in FRONT
_SCALE = 0.1  # of the first loss of FRONT, as in Nash-MTL
_SHIFT = 20.0


def _valley(x: Tensor) -> Tensor:
    x1, x2 = x.unbind(-1)
    wide = 1 - 1 / (1 + (x1**4 + x2**4) / 10)
    narrow = 1 - torch.exp(-2 * (x1 + 4) ** 2 - 2 * x2**2)
    return torch.stack([wide, narrow], -1)


def _valley_set(n: int) -> Tensor:
    # Within a level set of l1, a ball of the 4-norm around 0, the point closest to l2's minimum
    # (-4, 0) is on the line between the two minima.
    x1 = torch.linspace(-4, 0, n, dtype=torch.float64)
    return torch.stack([x1, torch.zeros_like(x1)], -1)


VALLEY = Problem(
    name="valley",
    title="a sharp valley and a flat one (SAMO paper, Figure 1)",
    evaluate=_valley,
    starts=((-6.0, 1.0),),
    view=Box((-6.0, -3.0), (6.0, 3.0)),
    lr=0.01,
    steps=5000,
    rho=1.5,
    box=Box((-6.0, -3.0), (6.0, 3.0)),
    pareto_set=_valley_set,
)
r"""The problem of Figure 1 and §6.1 of the SAMO paper (arXiv 2507.07883).

.. math::
    l_1 = 1 - \frac{1}{1 + (x_1^4 + x_2^4) / 10}, \qquad
    l_2 = 1 - \exp(-2 (x_1 + 4)^2 - 2 x_2^2)

for x in [-6, 6] × [-3, 3]. The Pareto set is the segment from (-4, 0), a sharp minimum of
:math:`l_2`, to (0, 0), a flat one of :math:`l_1`. From (-6, 1), descent on the mean ends in the
former, with λ_max ≈ 2.0; with a perturbation along the mean gradient it does not. The paper does
not state its ρ, learning rate or number of steps; these are ours.
"""


def _front(x: Tensor) -> Tensor:
    x1, x2 = x.unbind(-1)
    up = torch.tanh(x2 / 2).clamp(min=0)
    down = torch.tanh(-x2 / 2).clamp(min=0)
    gaps = torch.stack(
        [(-x1 - 7) / 2 + torch.tanh(x2), (-x1 + 3) / 2 - torch.tanh(x2) + 2], -1
    ).abs()
    valleys = gaps.clamp(min=_SMALLEST).log() + 6
    bowls = torch.stack([_bowl(x1 - 7, x2), _bowl(x1 + 7, x2)], -1)
    losses = valleys * up[..., None] + bowls * down[..., None]
    return (losses + _SHIFT) * losses.new_tensor([_SCALE, 1.0])


def _bowl(x1: Tensor, x2: Tensor) -> Tensor:
    return (x1**2 + (x2 + 8) ** 2 / 10) / 10 - 20


def _front_set(n: int) -> Tensor:
    # With c = tanh(-x2/2) and q_i the bowls, the losses are c q_i there, and the gradients of two
    # functions c q_i cancel with weights w and 1 - w where w = (x1 + 7) / 14 and
    #     c' (w q_1 + (1 - w) q_2) + c (x2 + 8) / 50 = 0,    -7 ≤ x1 ≤ 7,
    # which has one root x2 between -9 and -8, found by bisection.
    x1 = torch.linspace(-7, 7, n, dtype=torch.float64)
    low, high = torch.full_like(x1, -9), torch.full_like(x1, -8)
    for _ in range(60):
        x2 = (low + high) / 2
        c = torch.tanh(-x2 / 2)
        mixed = (49 - x1**2 + (x2 + 8) ** 2 / 10) / 10 - 20
        slope = -(1 - c**2) / 2 * mixed + c * (x2 + 8) / 50
        low, high = torch.where(slope < 0, x2, low), torch.where(slope < 0, high, x2)
    return torch.stack([x1, (low + high) / 2], -1)


FRONT = Problem(
    name="front",
    title="steep valleys above, a Pareto front below, five starts (CAGrad, Nash-MTL)",
    evaluate=_front,
    starts=((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0)),
    view=Box((-11.0, -11.0), (11.0, 11.0)),
    lr=0.01,
    steps=5000,
    rho=0.1,
    methods=("ls", "mgda", "pcgrad", "cagrad", "nash-mtl"),
    presets=("erm",),
    pareto_set=_front_set,
)
r"""The problem of CAGrad (arXiv 2110.14048), as in Nash-MTL (arXiv 2202.01017) with five starts.

With :math:`c_+ = \max(\tanh(x_2/2), 0)` and :math:`c_- = \max(\tanh(-x_2/2), 0)`,

.. math::
    f_1 &= c_+ \left(\log \max(|(-x_1 - 7)/2 - \tanh(-x_2)|, 5 \cdot 10^{-6}) + 6\right)
         + c_- \left(((x_1 - 7)^2 + (x_2 + 8)^2 / 10) / 10 - 20\right) \\
    f_2 &= c_+ \left(\log \max(|(-x_1 + 3)/2 + \tanh(-x_2) + 2|, 5 \cdot 10^{-6}) + 6\right)
         + c_- \left(((x_1 + 7)^2 + (x_2 + 8)^2 / 10) / 10 - 20\right)

and the losses are :math:`l_1 = 0.1 (f_1 + 20)`, with the scale of Nash-MTL, and
:math:`l_2 = f_2 + 20`. The offset 20 is ours: it makes the losses positive, which some methods
require, and changes no gradient. Nash-MTL takes 35,000 steps with a learning rate of 0.001; the
defaults here are 5,000 and 0.01. ρ is ours: the literature has no perturbations on this problem.
"""

PROBLEMS = {problem.name: problem for problem in (VALLEY, FRONT)}
"""The problems by name."""
