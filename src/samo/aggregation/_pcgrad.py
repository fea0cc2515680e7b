"""PCGrad: projects task gradients onto the normal planes of conflicting gradients."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._scale_free import ScaleFree
from .solvers import Array, library, to_array, to_tensor


@final
class PCGradWeighting(Weighting[PSDMatrix], ScaleFree):
    """The weighting of `PCGrad`."""

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``, for orders drawn at random."""
        return to_tensor(surgery(to_array(gramian), random_orders(len(gramian))), gramian)


@final
class PCGrad(GramianAggregator):
    r"""Projecting conflicting gradients, also called gradient surgery.

    For each task i, and for the other tasks j in a random order: if :math:`g_i^{PC}` conflicts with
    :math:`g_j`,

    .. math::
        g_i^{PC} \leftarrow g_i^{PC} - \frac{g_i^{PC} \cdot g_j}{\|g_j\|^2} g_j

    The direction is the sum of the :math:`g_i^{PC}` (Yu et al., NeurIPS 2020, arXiv 2001.06782,
    Algorithm 1). The orders come from torch's global generator.

    The result has the same distribution as that of TorchJD's class of the same name, which
    processes one pair at a time; here each step processes one j for every task i.

    Example:
        >>> import torch
        >>> from samo.aggregation import PCGrad
        >>> PCGrad()(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.5000])
    """

    gramian_weighting: PCGradWeighting

    def __init__(self) -> None:
        super().__init__(PCGradWeighting())


def random_orders(n_tasks: int) -> Array:
    """Draws an order of the other tasks for each task, from torch's global generator.

    All orders are equally likely, and those of different tasks are independent.

    Args:
        n_tasks: The number of tasks K.

    Returns:
        The orders, ``[K, K - 1]``: row i has all tasks except i.
    """
    keys = torch.rand(n_tasks, n_tasks, dtype=torch.float64).fill_diagonal_(2.0)
    orders = keys.argsort(dim=1)[:, :-1]
    return orders if library() is torch else orders.numpy()


def surgery(gramian: Array, orders: Array) -> Array:
    """Computes the weights, ``[K]``, for given orders of the other tasks, ``[K, K - 1]``."""
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
