"""MGDA: the point of the gradients' convex hull that is nearest to zero."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._arrays import to_tensor
from ._nonnegative import NonnegativePrograms
from ._normal import normalized, resolution
from ._scale_free import ScaleFree


@final
class MGDAWeighting(Weighting[PSDMatrix], ScaleFree):
    """The weighting of `MGDA`."""

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``: at least 0, with sum 1.

        Raises:
            ConvergenceError: If they are not found.
            ValueError: If the Gramian is not finite.
        """
        cosines, norms = normalized(gramian)
        if not norms.all():
            weights = (norms == 0) * 1.0
        else:
            # Up to its length, the nearest point is ½ ‖J^T w‖² − Σ w_i at its least over w ≥ 0.
            scales = norms.min() / norms
            programs = NonnegativePrograms(cosines, resolution(gramian))
            weights = programs.solve(-scales[None])[0][0] * scales
        return to_tensor(weights / weights.sum(), gramian)

    def __repr__(self) -> str:
        return "MGDAWeighting()"


@final
class MGDA(GramianWeightedAggregator):
    r"""The multiple-gradient descent algorithm.

    .. math::
        \min_w \|J^\top w\|^2 \quad \text{s.t.} \quad w \ge 0, \quad \sum_i w_i = 1

    (Désidéri, Comptes Rendus Mathématique 350, 2012; Sener and Koltun, NeurIPS 2018, arXiv
    1810.04650). To first order, no task's loss rises along :math:`d = J^\top w`:
    :math:`g_i^\top d \ge \|d\|^2`.

    Sener and Koltun's code and TorchJD's class of the same name take up to 100 steps of Frank and
    Wolfe's method. Here the solution is exact, to a duality gap :math:`w^\top G w - \min_i (G w)_i`
    below 1e-11 times the squares of the gradients that have weights, however different the sizes of
    the gradients are. Where there are gradients of zero, they share the weights equally.

    Example:
        >>> import torch
        >>> from samo.aggregation import MGDA
        >>> MGDA().gramian_weighting(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.7500, 0.2500])
    """

    gramian_weighting: MGDAWeighting

    def __init__(self) -> None:
        super().__init__(MGDAWeighting())
