"""DWA: weights from the rate at which each loss falls."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.scalarization import Scalarizer

from ._checks import check_shape
from ._options import ConstructorRepr, ranged


@final
class DWA(ConstructorRepr, Scalarizer, Stateful):
    r"""Dynamic weight average.

    .. math::
        w_i = K \, \frac{\exp(r_i / T)}{\sum_j \exp(r_j / T)}, \qquad
        r_i = \frac{L_i(t - 1)}{L_i(t - 2)}

    (Liu, Johns and Davison, CVPR 2019, arXiv 1803.10704, Eq. 7), with L the means of the losses in
    the last two epochs. Call `step` at the end of an epoch (`Engine.epoch_ended` does). In the
    first two epochs all weights are 1.

    TorchJD's class of the same name has NaN weights after an epoch whose mean loss was zero. Here
    the rate of a task is 1, as for a loss that does not change, if the quotient is not finite.

    Args:
        temperature: The temperature T, above 0. Larger values give more equal weights.

    Raises:
        TypeError: If the temperature is not a number.
        ValueError: If the temperature is not positive; in a call, if the number of losses changes.

    Example:
        >>> import torch
        >>> from samo.aggregation import DWA
        >>> dwa = DWA(temperature=1.0)
        >>> for losses in ([4.0, 0.0], [2.0, 0.0]):
        ...     _ = dwa(torch.tensor(losses))
        ...     dwa.step()
        >>> dwa(torch.ones(2))  # the rates are 1/2 and 1, and the weights add up to 2
        tensor(2.)
    """

    temperature: float = ranged(0, open_low=True)

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.reset()

    def reset(self) -> None:
        """Forgets all epochs."""
        self._sum: Tensor | None = None
        self._calls = 0
        self._means: list[Tensor] = []

    def step(self) -> None:
        """Ends an epoch; without effect if there was no call since the last one."""
        if self._sum is not None:
            self._means = [*self._means, self._sum / self._calls][-2:]
            self._sum, self._calls = None, 0

    def forward(self, values: Tensor, /) -> Tensor:
        """Returns the sum of the losses with constant weights, and counts them."""
        losses = values.detach()
        for known in (self._sum, *self._means):
            if known is not None:
                check_shape(self, losses, len(known))
        self._sum = losses.clone() if self._sum is None else self._sum + losses
        self._calls += 1
        return (self._weights(losses) * values).sum()

    def _weights(self, losses: Tensor) -> Tensor:
        if len(self._means) < 2:
            return torch.ones_like(losses)
        older, newer = self._means
        rates = newer / older
        rates = torch.where(rates.isfinite(), rates, 1.0)
        return len(losses) * torch.softmax(rates / self.temperature, dim=0)
