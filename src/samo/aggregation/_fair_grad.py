"""FairGrad: the α-fair direction."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from .solvers import alpha_fair, to_tensor


@final
class FairGradWeighting(ConstructorRepr, Weighting[PSDMatrix]):
    """The weighting of `FairGrad`, with the same options."""

    alpha: float = ranged(0)

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``."""
        if self.alpha == 0:
            return torch.full_like(gramian.diagonal(), 1 / len(gramian))
        return to_tensor(alpha_fair(gramian, self.alpha), gramian)


@final
class FairGrad(ConstructorRepr, GramianAggregator):
    r"""Fair resource allocation.

    The weights w > 0 solve

    .. math::
        G w = w^{-1/\alpha}, \qquad G = J J^\top

    (Ban and Ji, ICML 2024, arXiv 2402.15638, Eq. 4 and Algorithm 1): the direction
    :math:`J^\top w` is α-fair in the improvements of the tasks. α = 0 is the mean of the gradients,
    α = 1 has the direction of Nash-MTL, and for α → ∞ it tends to that of MGDA. The experiments of
    SAMO use 2.

    The authors' code and TorchJD's class of the same name pass the equation to
    ``scipy.optimize.least_squares``, which approximates the weights. Here they are exact up to
    rounding, for gradients of any size and a condition number of G up to 1e12 (1e10 for α < 0.2).

    A zero gradient gets the weight 0. If a combination of gradients with positive weights is zero,
    no direction improves all of its tasks, and the equation has no solution. The weights returned
    then give the limit of the directions of :math:`G + \varepsilon I` for ε → 0: it leaves the
    losses of such tasks unchanged, to first order, and is α-fair for the others among all
    directions with this property. If it holds for all tasks, the direction is zero.

    Args:
        alpha: The fairness α, at least 0.

    Raises:
        TypeError: If alpha is not a number.
        ValueError: If alpha is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import FairGrad
        >>> weights = FairGrad(alpha=1.0).gramian_weighting(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        >>> weights
        tensor([0.5000, 1.0000])
    """

    gramian_weighting: FairGradWeighting
    alpha: float = of_weighting()

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(FairGradWeighting(alpha))
