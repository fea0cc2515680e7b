"""Full IMTL: its loss balance and its gradient balance together."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torchjd.aggregation import GramianWeightedAggregator, IMTLGWeighting, Weighting
from torchjd.linalg import PSDMatrix

from ._checks import check_shape
from ._forward import of_weighting
from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses


@final
class IMTLWeighting(Weighting[PSDMatrix], SeesLosses, ScaleFree):
    """The weighting of `IMTL`.

    Args:
        n_tasks: The number of tasks K.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.log_scale = nn.Parameter(torch.zeros(n_tasks))
        self.balance = IMTLGWeighting()

    def reset(self) -> None:
        """Makes all scales 1."""
        with torch.no_grad():
            self.log_scale.zero_()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Scales the losses.

        Args:
            losses: The natural losses, ``[K]``.

        Returns:
            The sum of the scaled losses.

        Raises:
            ValueError: If they are not of K tasks.
        """
        check_shape(self, losses, self.n_tasks)
        return (self.log_scale.exp() * losses - self.log_scale).sum()

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The Gramian of the gradients of the losses as they are, ``[K, K]``.

        Returns:
            The weights of these gradients, ``[K]``.
        """
        scale = self.log_scale.detach().to(gramian).exp()
        weights: Tensor = self.balance(scale[:, None] * gramian * scale)
        return weights * scale

    def __repr__(self) -> str:
        return f"IMTLWeighting(n_tasks={self.n_tasks})"


@final
class IMTL(GramianWeightedAggregator, SeesLosses):
    r"""Impartial multi-task learning, its two balances together.

    IMTL-L scales each loss, and learns the scale along with the model; IMTL-G combines the
    gradients of the scaled losses so that it projects equally onto each of them:

    .. math::
        \tilde l_i = e^{s_i} l_i - s_i, \qquad \tilde g_i = e^{s_i} g_i, \qquad
        d = \sum_i \alpha_i \tilde g_i, \quad d^\top \tilde g_i / \|\tilde g_i\| \text{ equal},
        \quad \sum_i \alpha_i = 1

    (Liu et al., ICLR 2021, Sections 3.1 to 3.3). The tasks' own parameters and s minimise
    :math:`\sum_i \tilde l_i`. IMTL-G is TorchJD's, with a pseudoinverse for gradients that are
    linearly dependent.

    s is the parameter ``log_scale``, 0 at first: give `parameters()` to the optimizer that trains
    the model. As long as s is not trained or no losses are seen, this is IMTL-G.

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

    def __init__(self, n_tasks: int) -> None:
        super().__init__(IMTLWeighting(n_tasks))

    n_tasks = of_weighting("n_tasks")

    @property
    def log_scale(self) -> nn.Parameter:
        """The logarithms s of the scales, ``[K]``."""
        return self.gramian_weighting.log_scale

    def reset(self) -> None:
        """Makes all scales 1."""
        self.gramian_weighting.reset()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Scales the losses.

        Args:
            losses: The natural losses, ``[K]``.

        Returns:
            The sum of the scaled losses.
        """
        return self.gramian_weighting.see_losses(losses)

    def __repr__(self) -> str:
        return f"IMTL(n_tasks={self.n_tasks})"
