"""GradVac: turns task gradients towards each other, up to their average similarity."""

from __future__ import annotations

import sys
from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from ._pcgrad import random_orders
from ._scale_free import ScaleFree
from .solvers import Array, library, to_array, to_tensor


@final
class GradVacWeighting(ConstructorRepr, Weighting[PSDMatrix], Stateful, ScaleFree):
    """The weighting of `GradVac`, with the same options."""

    beta: float = ranged(0, 1)
    eps: float = ranged(0)

    def __init__(self, beta: float = 0.5, eps: float = 1e-8) -> None:
        super().__init__()
        self.beta = beta
        self.eps = eps
        self.register_buffer("_similarities", None)
        self._similarities: Tensor | None = None

    def reset(self) -> None:
        """Resets the moving averages."""
        self._similarities = None

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Updates the moving averages and returns the weights, ``[K]``."""
        if self._similarities is None or self._similarities.shape != gramian.shape:
            self._similarities = torch.zeros(gramian.shape, dtype=torch.float64)
        array = to_array(gramian)
        weights, similarities = vaccinated(
            array / (float(array.diagonal().mean()) or 1.0),
            to_array(self._similarities),
            random_orders(len(gramian)),
            self.beta,
            self.eps,
        )
        self._similarities = torch.as_tensor(similarities)
        return to_tensor(weights, gramian)


@final
class GradVac(ConstructorRepr, GramianAggregator, Stateful):
    r"""Gradient vaccine.

    For each task i, and for the other tasks j in a random order, with φ the cosine of
    :math:`g_i^{PC}` and :math:`g_j`, and :math:`\hat\varphi_{ij}` its moving average: if φ is
    less than its average, the multiple of :math:`g_j` that makes them equal is added,

    .. math::
        g_i^{PC} \leftarrow g_i^{PC} + \frac{\|g_i^{PC}\| (\hat\varphi_{ij} \sqrt{1 - \varphi^2}
        - \varphi \sqrt{1 - \hat\varphi_{ij}^2})}{\|g_j\| \sqrt{1 - \hat\varphi_{ij}^2}} g_j,
        \qquad \hat\varphi_{ij} \leftarrow (1 - \beta) \hat\varphi_{ij} + \beta \varphi

    The direction is the sum of the :math:`g_i^{PC}` (Wang et al., ICLR 2021, arXiv 2010.05874,
    Algorithm 1). The orders come from torch's global generator.

    The result has the same distribution as that of TorchJD's class of the same name, which
    processes one pair at a time; here each step processes one j for every task i, and ``eps`` is
    relative to the size of the gradients.

    State: the moving averages, ``[K, K]``, in float64; initially 0, and reset when the number of
    tasks changes.

    Args:
        beta: The weight β of a call in the moving averages, in [0, 1].
        eps: The number that is added to denominators, for gradients with a mean square norm of 1.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import GradVac
        >>> GradVac()(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.5000])
    """

    gramian_weighting: GradVacWeighting
    beta: float = of_weighting()
    eps: float = of_weighting()

    def __init__(self, beta: float = 0.5, eps: float = 1e-8) -> None:
        super().__init__(GradVacWeighting(beta, eps))

    def reset(self) -> None:
        """Resets the moving averages."""
        self.gramian_weighting.reset()


def vaccinated(
    gramian: Array, averages: Array, orders: Array, beta: float, eps: float
) -> tuple[Array, Array]:
    """Computes the weights for a Gramian with mean diagonal 1 and for given orders, ``[K, K - 1]``.

    Returns:
        The weights, ``[K]``, and the updated moving averages, ``[K, K]``.
    """
    xp = library()
    if len(gramian) == 1:
        return xp.ones_like(averages[0]), averages
    tasks = xp.arange(len(gramian))[:, None]
    norms = xp.sqrt(gramian.diagonal().clip(min=0))
    eps, nothing = max(eps, sys.float_info.min), norms * 0.0
    # One row for each step.
    later = orders.T
    targets = averages[tasks, orders].T
    sines = xp.sqrt((1 - targets * targets).clip(min=0))
    lengths = norms[orders].T
    # No gradient can be turned towards a zero gradient.
    slopes = xp.where(lengths > 0, 1 / (lengths * sines + eps), 0.0)
    products, squares = gramian[tasks, orders].T * 1.0, norms * norms
    found, added = [], []
    for step, (target, sine, length, slope) in enumerate(
        zip(targets, sines, lengths, slopes, strict=True)
    ):
        product, own = products[step], xp.sqrt(xp.maximum(squares, nothing))
        cosine = product / (own * length + eps)
        # The sine of the angle to turn by: positive if the cosine is less than its target.
        turn = target * xp.sqrt(xp.maximum(1 - cosine * cosine, nothing)) - cosine * sine
        factors = xp.maximum(turn, nothing) * own * slope
        squares = squares + factors * (product * 2 + factors * length * length)
        # The inner products of the new g_i^PC with the gradients of the remaining steps.
        products[step + 1 :] += factors * gramian[later[step], later[step + 1 :]]
        found.append(cosine)
        added.append(factors)
    weights, averages = xp.zeros_like(gramian), averages * 1.0
    weights[tasks, orders] = xp.stack(added).T
    averages[tasks, orders] += beta * (xp.stack(found) - targets).T
    return weights.sum(0) + 1.0, averages
