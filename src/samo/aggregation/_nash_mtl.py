"""Nash-MTL: the bargaining solution."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._alpha_fair import alpha_fair
from ._arrays import to_array, to_tensor
from ._checks import ranged
from ._forward import of_weighting


@final
class NashMTLWeighting(Weighting[PSDMatrix]):
    """The weighting of `NashMTL`.

    Args:
        max_norm: The largest norm of the direction; 0 for no limit.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        super().__init__()
        self.max_norm = max_norm

    max_norm = ranged("max_norm", 0)

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
        weights = alpha_fair(gramian, 1.0)
        norm = max(float(weights @ (to_array(gramian) @ weights)), 0.0) ** 0.5
        if 0 < self.max_norm < norm:
            weights = weights * (self.max_norm / norm)
        return to_tensor(weights, gramian)

    def __repr__(self) -> str:
        return f"NashMTLWeighting(max_norm={self.max_norm})"


@final
class NashMTL(GramianWeightedAggregator):
    r"""Multi-task learning as a bargaining game.

    The weights w > 0 solve

    .. math::
        G w = 1 / w, \qquad G = J J^\top

    (Navon et al., ICML 2022, arXiv 2202.01017, Eq. 2 and Algorithm 1), and are then multiplied by
    ``max_norm`` over the norm of :math:`J^\top w` where that is less than 1. Since
    :math:`\|J^\top w\|^2 = w^\top G w = K`, the direction has the norm √K or ``max_norm``,
    whichever is less: its length says nothing of how far away the solution is.

    The authors' code and TorchJD's class of the same name take the matrix J, solve a sequence of
    convex programs from the weights of the step before, and stop after 20, often far from the
    solution. Here the Gramian is enough, the solution is exact and no step depends on another, so
    that there is no ``optim_niter``; nor is there ``update_weights_every``, which saves the authors
    backward passes, but not a user of a Gramian. See `FairGrad`, of which this is the case α = 1,
    for what happens where tasks cannot all improve.

    Args:
        max_norm: The largest norm of the direction; 0 for no limit.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import NashMTL
        >>> NashMTL(max_norm=0)(torch.tensor([[4.0, 0.0], [0.0, 0.5]]))
        tensor([1., 1.])
    """

    gramian_weighting: NashMTLWeighting

    def __init__(self, max_norm: float = 1.0) -> None:
        super().__init__(NashMTLWeighting(max_norm))

    max_norm = of_weighting("max_norm")

    def __repr__(self) -> str:
        return f"NashMTL(max_norm={self.max_norm})"
