"""MGDA: the point of the convex hull of the gradients that is nearest to zero."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._scale_free import ScaleFree
from .solvers import NonnegativePrograms, normalized, resolution, to_tensor


@final
class MGDAWeighting(Weighting[PSDMatrix], ScaleFree):
    """The weighting of `MGDA`."""

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``: nonnegative, with sum 1."""
        cosines, norms = normalized(gramian)
        if not norms.all():
            weights = (norms == 0) * 1.0
        else:
            # Up to its length, the nearest point minimises ½ ‖J^T w‖² − Σ w_i over w ≥ 0.
            scales = norms.min() / norms
            programs = NonnegativePrograms(cosines, resolution(gramian))
            weights = programs.solve(-scales[None])[0][0] * scales
        return to_tensor(weights / weights.sum(), gramian)


@final
class MGDA(GramianAggregator):
    r"""The multiple-gradient descent algorithm.

    .. math::
        \min_w \|J^\top w\|^2 \quad \text{s.t.} \quad w \ge 0, \quad \sum_i w_i = 1

    (Désidéri, Comptes Rendus Mathématique 350, 2012; Sener and Koltun, NeurIPS 2018, arXiv
    1810.04650). To first order, no task's loss increases along :math:`-d` with
    :math:`d = J^\top w`, since :math:`g_i^\top d \ge \|d\|^2`.

    Sener and Koltun's code and TorchJD's class of the same name take up to 100 Frank-Wolfe steps.
    Here the solution is exact: the duality gap :math:`w^\top G w - \min_i (G w)_i` is below 1e-11
    times the squared norms of the gradients with nonzero weights, however different the sizes of
    the gradients are. Zero gradients, if any, share the weights equally.

    Example:
        >>> import torch
        >>> from samo.aggregation import MGDA
        >>> MGDA().gramian_weighting(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.7500, 0.2500])
    """

    gramian_weighting: MGDAWeighting

    def __init__(self) -> None:
        super().__init__(MGDAWeighting())
