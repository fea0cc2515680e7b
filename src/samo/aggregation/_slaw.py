"""SLAW: weights from the spread of each loss."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.scalarization import Scalarizer

from ._checks import check_shape, in_range


@final
class SLAW(Scalarizer, Stateful):
    r"""Scaled loss approximate weighting.

    .. math::
        s_i^2 = E[l_i^2] - E[l_i]^2, \qquad
        w_i = \frac{K / \max(s_i, \epsilon)}{\sum_j 1 / \max(s_j, \epsilon)}

    (Crawshaw and Košecká, arXiv 2109.08218), E being a moving average over the calls: the spread of
    a loss over the steps is an estimate of the size of its gradient that costs nothing.

    The moving averages start as the authors' code has them: arithmetic means until they are over
    :math:`1 / (1 - \beta)` calls, exponential ones from then on; all weights are 1 at the first
    call. They are updated in the form of a mean and a variance, which cannot become negative by
    rounding.

    Args:
        beta: The decay β of the moving averages, in [0, 1).
        eps: The smallest spread ε. Where all spreads are smaller, the weights are equal.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import SLAW
        >>> slaw = SLAW()
        >>> for losses in ([1.0, 1.0], [3.0, 2.0]):
        ...     total = slaw(torch.tensor(losses))
        >>> total  # the spreads are 1 and 1/2, so the weights are 2/3 and 4/3
        tensor(4.6667)
    """

    def __init__(self, beta: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        self.beta = in_range("beta", beta, 0, 1, open_high=True)
        self.eps = in_range("eps", eps, 0, open_low=True)
        self.reset()

    def reset(self) -> None:
        """Forgets all calls so far."""
        self._mean: Tensor | None = None
        self._variance: Tensor | None = None
        self._calls = 0

    def forward(self, values: Tensor, /) -> Tensor:
        """Scalarizes, and takes the losses into the averages.

        Args:
            values: The losses, ``[K]``.

        Returns:
            Their weighted sum; the weights are constants.

        Raises:
            ValueError: If their number changes.
        """
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

    def __repr__(self) -> str:
        return f"SLAW(beta={self.beta}, eps={self.eps})"
