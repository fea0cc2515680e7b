"""GradVac: task gradients turned towards each other, up to their usual similarity."""

from __future__ import annotations

import sys
from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._arrays import Array, library, to_array, to_tensor
from ._checks import ranged
from ._forward import of_weighting
from ._orders import random_orders
from ._scale_free import ScaleFree


@final
class GradVacWeighting(Weighting[PSDMatrix], Stateful, ScaleFree):
    """The weighting of `GradVac`.

    Args:
        beta: The share of a call in the moving averages, in [0, 1].
        eps: What is added to denominators, where the gradients' mean square is 1.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.
    """

    def __init__(self, beta: float = 0.5, eps: float = 1e-8) -> None:
        super().__init__()
        self.beta = beta
        self.eps = eps
        self.register_buffer("_similarities", None)
        self._similarities: Tensor | None = None

    beta = ranged("beta", 0, 1)
    eps = ranged("eps", 0)

    def reset(self) -> None:
        """Forgets all calls so far."""
        self._similarities = None

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks, and updates the moving averages.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``.
        """
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

    def __repr__(self) -> str:
        return f"GradVacWeighting(beta={self.beta}, eps={self.eps})"


@final
class GradVac(GramianWeightedAggregator, Stateful):
    r"""Gradient vaccine.

    For each task i, and for the other tasks j in a random order, with φ the cosine of
    :math:`g_i^{PC}` and :math:`g_j`, and :math:`\hat\varphi_{ij}` its moving average: where φ is
    less than that, the part of :math:`g_j` is added that makes them equal,

    .. math::
        g_i^{PC} \leftarrow g_i^{PC} + \frac{\|g_i^{PC}\| (\hat\varphi_{ij} \sqrt{1 - \varphi^2}
        - \varphi \sqrt{1 - \hat\varphi_{ij}^2})}{\|g_j\| \sqrt{1 - \hat\varphi_{ij}^2}} g_j,
        \qquad \hat\varphi_{ij} \leftarrow (1 - \beta) \hat\varphi_{ij} + \beta \varphi

    The direction is the sum of the :math:`g_i^{PC}` (Wang et al., ICLR 2021, arXiv 2010.05874,
    Algorithm 1). The orders come from torch's global generator.

    The result is distributed as that of TorchJD's class of the same name, which takes one pair at a
    time; here all tasks i take their next j together, and ``eps`` is relative to the size of the
    gradients.

    State: the moving averages, ``[K, K]``, in float64; 0 at first, and anew where the number of
    tasks changes.

    Args:
        beta: The share of a call in the moving averages, in [0, 1].
        eps: What is added to denominators, where the gradients' mean square is 1.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import GradVac
        >>> GradVac()(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.5000])
    """

    gramian_weighting: GradVacWeighting

    def __init__(self, beta: float = 0.5, eps: float = 1e-8) -> None:
        super().__init__(GradVacWeighting(beta, eps))

    beta = of_weighting("beta")
    eps = of_weighting("eps")

    def reset(self) -> None:
        """Forgets all calls so far."""
        self.gramian_weighting.reset()

    def __repr__(self) -> str:
        return f"GradVac(beta={self.beta}, eps={self.eps})"


def vaccinated(
    gramian: Array, averages: Array, orders: Array, beta: float, eps: float
) -> tuple[Array, Array]:
    """The weights and the new moving averages, given the orders.

    Args:
        gramian: The Gramian, ``[K, K]``.
        averages: The moving averages of the cosines, ``[K, K]``.
        orders: The other tasks in the order of each task, ``[K, K - 1]``.
        beta: The share of a call in the moving averages.
        eps: What is added to denominators, where the gradients' mean square is 1.

    Returns:
        The weights, ``[K]``, and the moving averages, ``[K, K]``.
    """
    xp = library()
    if len(gramian) == 1:
        return xp.ones_like(averages[0]), averages
    tasks = xp.arange(len(gramian))[:, None]
    norms = xp.sqrt(gramian.diagonal().clip(min=0))
    eps, nothing = max(eps, sys.float_info.min), norms * 0.0
    # In the order of the steps: a row for each.
    later = orders.T
    targets = averages[tasks, orders].T
    sines = xp.sqrt((1 - targets * targets).clip(min=0))
    lengths = norms[orders].T
    # Nothing can be turned towards a gradient of zero.
    slopes = xp.where(lengths > 0, 1 / (lengths * sines + eps), 0.0)
    products, squares = gramian[tasks, orders].T * 1.0, norms * norms
    found, added = [], []
    for step, (target, sine, length, slope) in enumerate(
        zip(targets, sines, lengths, slopes, strict=True)
    ):
        product, own = products[step], xp.sqrt(xp.maximum(squares, nothing))
        cosine = product / (own * length + eps)
        # The sine of the angle to turn by: positive where the cosine is less than its target.
        turn = target * xp.sqrt(xp.maximum(1 - cosine * cosine, nothing)) - cosine * sine
        factors = xp.maximum(turn, nothing) * own * slope
        squares = squares + factors * (product * 2 + factors * length * length)
        # The products of the new g_i^PC with the tasks to come.
        products[step + 1 :] += factors * gramian[later[step], later[step + 1 :]]
        found.append(cosine)
        added.append(factors)
    weights, averages = xp.zeros_like(gramian), averages * 1.0
    weights[tasks, orders] = xp.stack(added).T
    averages[tasks, orders] += beta * (xp.stack(found) - targets).T
    return weights.sum(0) + 1.0, averages
