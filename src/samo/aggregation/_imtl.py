"""IMTL: loss balance and gradient balance together."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torchjd.aggregation import IMTLGWeighting, Weighting
from torchjd.linalg import PSDMatrix

from ._checks import check_shape
from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting
from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses


@final
class IMTLWeighting(ConstructorRepr, Weighting[PSDMatrix], SeesLosses, ScaleFree):
    """The weighting of `IMTL`, with the same options."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))
        self.balance = IMTLGWeighting()

    def reset(self) -> None:
        """Resets all scales to 1."""
        with torch.no_grad():
            self.log_scale.zero_()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Returns the sum of the scaled losses."""
        check_shape(self, losses, self.n_tasks)
        return (self.log_scale.exp() * losses - self.log_scale).sum()

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights of the unscaled gradients, ``[K]``, from their Gramian."""
        scale = self.log_scale.detach().to(gramian).exp()
        weights: Tensor = self.balance(scale[:, None] * gramian * scale)
        return weights * scale


@final
class IMTL(ConstructorRepr, GramianAggregator, SeesLosses):
    r"""Impartial multi-task learning, with both of its balances.

    IMTL-L scales each loss by a factor that is trained with the model; IMTL-G combines the
    gradients of the scaled losses into a direction with equal projections onto each of them:

    .. math::
        \tilde l_i = e^{s_i} l_i - s_i, \qquad \tilde g_i = e^{s_i} g_i, \qquad
        d = \sum_i \alpha_i \tilde g_i, \quad d^\top \tilde g_i / \|\tilde g_i\| \text{ equal},
        \quad \sum_i \alpha_i = 1

    (Liu et al., ICLR 2021, Sections 3.1 to 3.3). The tasks' own parameters and s minimise
    :math:`\sum_i \tilde l_i`. IMTL-G is TorchJD's class, with a pseudoinverse for linearly
    dependent gradients.

    s is the parameter ``log_scale``, initially 0: pass `parameters()` to the optimizer of the
    model. While s is not trained, this is IMTL-G.

    Args:
        n_tasks: The number of tasks K.

    Example:
        >>> import torch
        >>> from samo.aggregation import IMTL
        >>> imtl = IMTL(2)
        >>> imtl.see_losses(torch.tensor([1.0, 3.0]))
        tensor(4., grad_fn=<SumBackward0>)
        >>> imtl(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([0.8000, 0.8000])
    """

    gramian_weighting: IMTLWeighting
    n_tasks: int = of_weighting()

    def __init__(self, n_tasks: int) -> None:
        super().__init__(IMTLWeighting(n_tasks))

    @property
    def log_scale(self) -> nn.Parameter:
        """The logarithms s of the scales, ``[K]``."""
        return self.gramian_weighting.log_scale

    def reset(self) -> None:
        """Resets all scales to 1."""
        self.gramian_weighting.reset()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Returns the sum of the scaled losses."""
        return self.gramian_weighting.see_losses(losses)
