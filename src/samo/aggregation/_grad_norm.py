"""GradNorm: weights that are learnt so that all tasks train at the same rate."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._checks import check_positive, check_shape, in_range
from ._forward import of_weighting
from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses

# Adam's customary decay rates, and the smallest weight: the quotients of the method need w > 0.
_FIRST, _SECOND, _TINY, _SMALLEST = 0.9, 0.999, 1e-8, 1e-4


@final
class GradNormWeighting(Weighting[PSDMatrix], SeesLosses, Stateful, ScaleFree):
    """The weighting of `GradNorm`.

    Args:
        alpha: The strength α of the restoring force.
        lr: The learning rate of the weights.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is negative.
    """

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.alpha = in_range("alpha", alpha, 0)
        self.lr = in_range("lr", lr, 0)
        self.reset()

    def reset(self) -> None:
        """Forgets all calls so far: the weights are equal again."""
        self._weights: Tensor | None = None
        self._moments: Tensor | None = None
        self._steps = 0
        self._initial: Tensor | None = None
        self._losses: Tensor | None = None

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Takes note of the losses, by which the rates of training are known.

        Args:
            losses: The natural losses, ``[K]``.

        Returns:
            Their sum with the present weights.

        Raises:
            ValueError: If one is not positive, or their number changes.
        """
        check_positive(self, losses)
        self._losses = losses.detach()
        if self._initial is None:
            self._initial = self._losses
        check_shape(self, losses, len(self._initial))
        weights = torch.ones_like(self._losses) if self._weights is None else self._weights
        return (weights.to(self._losses) * losses).sum()

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks, then learns.

        Args:
            gramian: The Gramian, ``[K, K]``.

        Returns:
            The weights, ``[K]``: those from before this call's update, as in Algorithm 1.

        Raises:
            ValueError: If the number of tasks changes.
        """
        if self._weights is None or self._moments is None:
            self._weights = gramian.new_ones(len(gramian))
            self._moments = gramian.new_zeros(2, len(gramian))
        weights = self._weights.to(gramian)
        check_shape(self, gramian.diagonal(), len(weights))
        self._weights = self._learnt(weights, gramian.diagonal().clamp(min=0).sqrt())
        return weights

    def _learnt(self, weights: Tensor, norms: Tensor) -> Tensor:
        here = norms > 0  # a task without a gradient is done
        if not here.any():
            return weights
        scaled = weights * norms
        target = scaled[here].mean() * self._rates(norms, here) ** self.alpha
        # Adam does not see the size of the gradients but for its own small constant.
        slope = (scaled - target).sign() * norms / norms[here].mean()
        self._steps += 1
        decay = norms.new_tensor([_FIRST, _SECOND])
        assert self._moments is not None
        new = torch.stack([slope, slope.square()])
        self._moments = torch.lerp(new, self._moments.to(norms), decay[:, None])
        first, second = self._moments / (1 - decay**self._steps)[:, None]
        step = self.lr * first / (second.sqrt() + _TINY)
        learnt = (weights - step.where(here, 0.0)).clamp(min=_SMALLEST)
        normalised: Tensor = learnt * (len(learnt) / learnt.sum())
        return normalised

    def _rates(self, norms: Tensor, here: Tensor) -> Tensor:
        """The relative inverse training rates; 1 as long as no losses are known."""
        if self._losses is None or self._initial is None:
            return torch.ones_like(norms)
        check_shape(self, self._losses, len(norms))
        ratio = self._losses.to(norms) / self._initial.to(norms)
        return ratio / ratio[here].mean()

    def __repr__(self) -> str:
        return f"GradNormWeighting(alpha={self.alpha}, lr={self.lr})"


@final
class GradNorm(GramianWeightedAggregator, SeesLosses, Stateful):
    r"""Gradient normalisation: all tasks are to train at similar rates.

    The weights w, 1 at first, take a gradient step a call on

    .. math::
        \sum_i \left| w_i \|g_i\| - [\bar G \, r_i^\alpha] \right|, \qquad
        \bar G = \frac{1}{K} \sum_j w_j \|g_j\|, \qquad
        r_i = \frac{l_i / l_i^{(0)}}{\frac{1}{K} \sum_j l_j / l_j^{(0)}}

    what is in brackets being constant, and are then rescaled to :math:`\sum_i w_i = K` (Chen et
    al., ICML 2018, arXiv 1711.02257, Eqs. 1 and 2, Algorithm 1). The norms are read from the
    diagonal of the Gramian. The aggregate, and the gradients of the tasks' own parameters, have the
    weights from before the step.

    The norms here are of all shared parameters; the paper takes those of the last shared layer to
    save time. The step is Adam's, with this learning rate: as far as known what the authors use.
    A weight does not fall below 1e-4; the paper does not say what keeps weights positive. The first
    losses seen are :math:`l^{(0)}` (an absent task's is then the mean of the others). Without
    losses all :math:`r_i` are 1.

    Args:
        alpha: The strength α of the restoring force: 1.5 in the paper's experiments on NYUv2.
        lr: The learning rate of the weights.

    Example:
        >>> import torch
        >>> from samo.aggregation import GradNorm
        >>> grad_norm = GradNorm(lr=0.1)
        >>> for _ in range(2):  # the second task is a hundred times as steep
        ...     total = grad_norm.see_losses(torch.tensor([1.0, 1.0]))
        ...     update = grad_norm(torch.tensor([[0.01, 0.0], [0.0, 1.0]]))
        >>> update  # its weight has gone from 1 to 0.9
        tensor([0.0110, 0.9000])
    """

    gramian_weighting: GradNormWeighting

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(GradNormWeighting(alpha, lr))

    alpha = of_weighting("alpha")
    lr = of_weighting("lr")

    def reset(self) -> None:
        """Forgets all calls so far: the weights are equal again."""
        self.gramian_weighting.reset()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Takes note of the losses, by which the rates of training are known.

        Args:
            losses: The natural losses, ``[K]``.

        Returns:
            Their sum with the present weights.
        """
        return self.gramian_weighting.see_losses(losses)

    def __repr__(self) -> str:
        return f"GradNorm(alpha={self.alpha}, lr={self.lr})"
