"""PCGrad: task gradients projected onto the normal planes of those that they conflict with."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._arrays import Array, library, to_array, to_tensor
from ._orders import random_orders
from ._scale_free import ScaleFree


@final
class PCGradWeighting(Weighting[PSDMatrix], ScaleFree):
    """The weighting of `PCGrad`."""

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``.
        """
        return to_tensor(surgery(to_array(gramian), random_orders(len(gramian))), gramian)

    def __repr__(self) -> str:
        return "PCGradWeighting()"


@final
class PCGrad(GramianWeightedAggregator):
    r"""Projecting conflicting gradients, or gradient surgery.

    For each task i, and for the other tasks j in a random order: where :math:`g_i^{PC}` conflicts
    with :math:`g_j`,

    .. math::
        g_i^{PC} \leftarrow g_i^{PC} - \frac{g_i^{PC} \cdot g_j}{\|g_j\|^2} g_j

    The direction is the sum of the :math:`g_i^{PC}` (Yu et al., NeurIPS 2020, arXiv 2001.06782,
    Algorithm 1). The orders come from torch's global generator.

    The result is distributed as that of TorchJD's class of the same name, which takes one pair at a
    time; here all tasks i take their next j together.

    Example:
        >>> import torch
        >>> from samo.aggregation import PCGrad
        >>> PCGrad()(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.5000])
    """

    gramian_weighting: PCGradWeighting

    def __init__(self) -> None:
        super().__init__(PCGradWeighting())


def surgery(gramian: Array, orders: Array) -> Array:
    """The weights, given the orders.

    Args:
        gramian: The Gramian, ``[K, K]``.
        orders: The other tasks in the order of each task, ``[K, K - 1]``.

    Returns:
        The weights, ``[K]``.
    """
    xp = library()
    squares = gramian.diagonal()
    inverses = xp.where(squares > 0, 1.0, 0.0) / xp.where(squares > 0, squares, 1.0)
    tasks, weights = xp.arange(len(gramian)), xp.zeros_like(gramian)
    products, nothing = gramian, squares * 0.0  # of each g_i^PC with each g_j
    for others in orders.T:
        factors = xp.maximum(-products[tasks, others], nothing) * inverses[others]
        products = products + factors[:, None] * gramian[others]
        weights[tasks, others] = factors
    return weights.sum(0) + 1.0
