"""GradNorm: learns weights such that all tasks train at similar rates."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._checks import check_positive, check_shape
from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses

# Adam's usual decay rates and ε, and the smallest weight: the method needs w > 0.
_FIRST, _SECOND, _TINY, _SMALLEST = 0.9, 0.999, 1e-8, 1e-4


@final
class GradNormWeighting(ConstructorRepr, Weighting[PSDMatrix], SeesLosses, Stateful, ScaleFree):
    """The weighting of `GradNorm`, with the same options."""

    alpha: float = ranged(0)
    lr: float = ranged(0)

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.alpha = alpha
        self.lr = lr
        self.reset()

    def reset(self) -> None:
        """Resets the weights to ones, and the losses."""
        self._weights: Tensor | None = None
        self._moments: Tensor | None = None
        self._steps = 0
        self._initial: Tensor | None = None
        self._losses: Tensor | None = None

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Stores the losses and returns their sum with the current weights."""
        check_positive(self, losses)
        self._losses = losses.detach()
        if self._initial is None:
            self._initial = self._losses
        check_shape(self, losses, len(self._initial))
        weights = torch.ones_like(self._losses) if self._weights is None else self._weights
        return (weights.to(self._losses) * losses).sum()

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Returns the weights, ``[K]``, from before this call's update, as in Algorithm 1."""
        if self._weights is None or self._moments is None:
            self._weights = gramian.new_ones(len(gramian))
            self._moments = gramian.new_zeros(2, len(gramian))
        weights = self._weights.to(gramian)
        check_shape(self, gramian.diagonal(), len(weights))
        self._weights = self._updated(weights, gramian.diagonal().clamp(min=0).sqrt())
        return weights

    def _updated(self, weights: Tensor, norms: Tensor) -> Tensor:
        here = norms > 0  # a task with a zero gradient is converged
        if not here.any():
            return weights
        scaled = weights * norms
        target = scaled[here].mean() * self._rates(norms, here) ** self.alpha
        # Up to its ε, Adam does not depend on the size of the gradients.
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
        """Returns the relative inverse training rates; 1 if there are no losses."""
        if self._losses is None or self._initial is None:
            return torch.ones_like(norms)
        check_shape(self, self._losses, len(norms))
        ratio = self._losses.to(norms) / self._initial.to(norms)
        return ratio / ratio[here].mean()


@final
class GradNorm(ConstructorRepr, GramianAggregator, SeesLosses, Stateful):
    r"""Gradient normalisation: weights such that all tasks train at similar rates.

    Each call takes a gradient step for the weights w, initially 1, on

    .. math::
        \sum_i \left| w_i \|g_i\| - [\bar G \, r_i^\alpha] \right|, \qquad
        \bar G = \frac{1}{K} \sum_j w_j \|g_j\|, \qquad
        r_i = \frac{l_i / l_i^{(0)}}{\frac{1}{K} \sum_j l_j / l_j^{(0)}}

    with the bracket held constant, and then rescales them to :math:`\sum_i w_i = K` (Chen et al.,
    ICML 2018, arXiv 1711.02257, Eqs. 1 and 2, Algorithm 1). The norms come from the diagonal of the
    Gramian. The aggregate, and the gradients of the tasks' own parameters, use the weights from
    before the step.

    The norms are those of all shared parameters; the paper uses the last shared layer to save time.
    The optimizer of the weights is Adam, presumably as in the authors' experiments; the paper does
    not name it. Weights stay above 1e-4; the paper does not say how they are kept positive. The
    first losses are :math:`l^{(0)}` (for an absent task, the mean of the others). Without losses
    all :math:`r_i` are 1. Losses must be positive.

    Args:
        alpha: The strength α of the restoring force, at least 0: 1.5 in the paper's experiments on
            NYUv2.
        lr: The learning rate of the weights, at least 0.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import GradNorm
        >>> grad_norm = GradNorm(lr=0.1)
        >>> for _ in range(2):  # the second gradient is a hundred times as large
        ...     total = grad_norm.see_losses(torch.tensor([1.0, 1.0]))
        ...     update = grad_norm(torch.tensor([[0.01, 0.0], [0.0, 1.0]]))
        >>> update  # the weight of the second task has changed from 1 to 0.9
        tensor([0.0110, 0.9000])
    """

    gramian_weighting: GradNormWeighting
    alpha: float = of_weighting()
    lr: float = of_weighting()

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(GradNormWeighting(alpha, lr))

    def reset(self) -> None:
        """Resets the weights to ones, and the losses."""
        self.gramian_weighting.reset()

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Stores the losses and returns their sum with the current weights."""
        return self.gramian_weighting.see_losses(losses)
