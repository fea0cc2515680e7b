"""SLAW: weights from the standard deviation of each loss over the steps."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.scalarization import Scalarizer

from ._checks import check_shape
from ._options import ConstructorRepr, ranged


@final
class SLAW(ConstructorRepr, Scalarizer, Stateful):
    r"""Scaled loss approximate weighting.

    .. math::
        s_i^2 = E[l_i^2] - E[l_i]^2, \qquad
        w_i = \frac{K / \max(s_i, \epsilon)}{\sum_j 1 / \max(s_j, \epsilon)}

    (Crawshaw and Košecká, arXiv 2109.08218), with E a moving average over the calls: the standard
    deviation of a loss over the steps is an estimate, at no cost, of the size of its gradient.

    As in the authors' code, the moving averages are arithmetic means for the first
    :math:`1 / (1 - \beta)` calls and exponential ones afterwards; all weights are 1 at the first
    call. The averages are stored as a mean and a variance, which rounding cannot make negative.

    Args:
        beta: The decay β of the moving averages, in [0, 1).
        eps: The lower bound ε of the standard deviations, above 0. If all are smaller, the weights
            are equal.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import SLAW
        >>> slaw = SLAW()
        >>> for losses in ([1.0, 1.0], [3.0, 2.0]):
        ...     total = slaw(torch.tensor(losses))
        >>> total  # the deviations are 1 and 1/2, so the weights are 2/3 and 4/3
        tensor(4.6667)
    """

    beta: float = ranged(0, 1, open_high=True)
    eps: float = ranged(0, open_low=True)

    def __init__(self, beta: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        self.beta = beta
        self.eps = eps
        self.reset()

    def reset(self) -> None:
        """Resets the moving averages."""
        self._mean: Tensor | None = None
        self._variance: Tensor | None = None
        self._calls = 0

    def forward(self, values: Tensor, /) -> Tensor:
        """Updates the averages and returns the sum of the losses with constant weights."""
        losses = values.detach()
        self._calls += 1
        if self._mean is None or self._variance is None:
            self._mean, self._variance = losses.clone(), torch.zeros_like(losses)
        else:
            check_shape(self, losses, len(self._mean))
            share = max(1 / self._calls, 1 - self.beta)
            surprise = losses - self._mean
            self._mean = self._mean + share * surprise
            self._variance = (1 - share) * (self._variance + share * surprise.square())
        inverse = 1 / self._variance.sqrt().clamp(min=self.eps)
        weights = len(losses) * inverse / inverse.sum()
        return (weights * values).sum()
