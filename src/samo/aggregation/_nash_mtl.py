"""Nash-MTL: the Nash bargaining solution."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from .solvers import alpha_fair, to_array, to_tensor


@final
class NashMTLWeighting(ConstructorRepr, Weighting[PSDMatrix]):
    """The weighting of `NashMTL`, with the same options."""

    max_norm: float = ranged(0)

    def __init__(self, max_norm: float = 1.0) -> None:
        super().__init__()
        self.max_norm = max_norm

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``."""
        weights = alpha_fair(gramian, 1.0)
        norm = max(float(weights @ (to_array(gramian) @ weights)), 0.0) ** 0.5
        if 0 < self.max_norm < norm:
            weights = weights * (self.max_norm / norm)
        return to_tensor(weights, gramian)


@final
class NashMTL(ConstructorRepr, GramianAggregator):
    r"""Multi-task learning as a bargaining game.

    The weights w > 0 solve

    .. math::
        G w = 1 / w, \qquad G = J J^\top

    (Navon et al., ICML 2022, arXiv 2202.01017, Eq. 2 and Algorithm 1), and are then scaled down so
    that the norm of :math:`J^\top w` is at most ``max_norm``. Since
    :math:`\|J^\top w\|^2 = w^\top G w = K`, the direction has the norm √K or ``max_norm``,
    whichever is smaller, independently of the distance to the solution.

    The authors' code and TorchJD's class of the same name take the matrix J and solve a sequence of
    at most 20 convex programs, starting from the weights of the previous step, and often stop far
    from the solution. Here the Gramian suffices, the solution is exact and no step depends on
    another, so ``optim_niter`` is not needed; nor is ``update_weights_every``, which would save no
    backward passes here. This is `FairGrad` with α = 1, which describes the case of tasks that
    cannot all improve.

    Args:
        max_norm: The largest norm of the direction; 0 for no limit.

    Raises:
        TypeError: If max_norm is not a number.
        ValueError: If max_norm is negative.

    Example:
        >>> import torch
        >>> from samo.aggregation import NashMTL
        >>> NashMTL(max_norm=0)(torch.tensor([[4.0, 0.0], [0.0, 0.5]]))
        tensor([1., 1.])
    """

    gramian_weighting: NashMTLWeighting
    max_norm: float = of_weighting()

    def __init__(self, max_norm: float = 1.0) -> None:
        super().__init__(NashMTLWeighting(max_norm))
