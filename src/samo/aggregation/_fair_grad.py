"""FairGrad: the α-fair direction."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._alpha_fair import alpha_fair
from ._arrays import to_tensor
from ._checks import ranged
from ._forward import of_weighting


@final
class FairGradWeighting(Weighting[PSDMatrix]):
    """The weighting of `FairGrad`.

    Args:
        alpha: The kind of fairness α, at least 0.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.
    """

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha

    alpha = ranged("alpha", 0, open_high=True)

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``.

        Raises:
            ConvergenceError: If they are not found.
            ValueError: If the Gramian is not finite.
        """
        if self.alpha == 0:
            return torch.full_like(gramian.diagonal(), 1 / len(gramian))
        return to_tensor(alpha_fair(gramian, self.alpha), gramian)

    def __repr__(self) -> str:
        return f"FairGradWeighting(alpha={self.alpha})"


@final
class FairGrad(GramianWeightedAggregator):
    r"""Fair resource allocation.

    The weights w > 0 solve

    .. math::
        G w = w^{-1/\alpha}, \qquad G = J J^\top

    (Ban and Ji, ICML 2024, arXiv 2402.15638, Eq. 4 and Algorithm 1): the direction
    :math:`J^\top w` is α-fair in what it improves the tasks by. α = 0 is the mean of the gradients,
    α = 1 has the direction of Nash-MTL, and α → ∞ tends to that of MGDA. 2 is what the
    experiments with SAMO use.

    The authors' code and TorchJD's class of the same name, which both hand the equation to
    ``scipy.optimize.least_squares``, approximate the weights; here they are exact to rounding, for
    gradients of any size and a condition number of G up to 1e12 (for α below 0.2, up to 1e10).

    A gradient of zero gets the weight 0. Where a combination of gradients with positive weights is
    zero, no direction improves all of its tasks, and the equation has no solution. Then weights are
    given of the direction to which those of :math:`G + \varepsilon I` lead for ε → 0: it keeps the
    losses of such tasks, to first order, and is the α-fair one for the others among those that do.
    Where all tasks are such, it is zero.

    Args:
        alpha: The kind of fairness α, at least 0.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import FairGrad
        >>> weights = FairGrad(alpha=1.0).gramian_weighting(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        >>> weights
        tensor([0.5000, 1.0000])
    """

    gramian_weighting: FairGradWeighting

    def __init__(self, alpha: float = 2.0) -> None:
        super().__init__(FairGradWeighting(alpha))

    alpha = of_weighting("alpha")

    def __repr__(self) -> str:
        return f"FairGrad(alpha={self.alpha})"
