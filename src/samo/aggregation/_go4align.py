"""GO4Align: loss weights for groups of tasks, which are recomputed at each step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.scalarization import Scalarizer

from ._checks import check_positive, check_shape
from ._options import ConstructorRepr, ranged


@final
class GO4Align(ConstructorRepr, Scalarizer, Stateful):
    r"""Group optimization for multi-task alignment.

    Accumulates the risks of earlier steps in probabilities p, balances them by the size of the
    losses, and averages them within groups of tasks with similar values:

    .. math::
        p_i \propto p_i e^{-\eta l_i}, \qquad \gamma_i = p_i \frac{\sum_j l_j}{l_i}, \qquad
        w_i = \text{mean of } \gamma \text{ over the group of } i

    (Shen et al., NeurIPS 2024, arXiv 2404.06486, in the form of the authors' code). The groups are
    the K-means clusters of the numbers γ. The authors' code runs Lloyd's algorithm from a random
    initialisation; here the optimal clusters are computed exactly, without random numbers.

    Args:
        num_groups: The number of groups; K if K is smaller.
        robust_step_size: The step size η of the probabilities, at least 0.

    Raises:
        TypeError: If an option is not a number, or ``num_groups`` is not an integer.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import GO4Align
        >>> losses = torch.tensor([1.0, 1.1, 9.0], requires_grad=True)
        >>> GO4Align()(losses).backward()
        >>> losses.grad  # the first two tasks are one group
        tensor([3.5328, 3.5328, 0.4109])
    """

    num_groups: int = ranged(1, integer=True)
    robust_step_size: float = ranged(0)

    def __init__(self, num_groups: int = 2, robust_step_size: float = 1e-4) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.robust_step_size = robust_step_size
        self.reset()

    def reset(self) -> None:
        """Resets the probabilities."""
        self._log_p: Tensor | None = None

    def forward(self, values: Tensor, /) -> Tensor:
        """Updates the probabilities and returns the sum of the losses with constant weights."""
        check_positive(self, values)
        losses = values.detach()
        if self._log_p is None:
            self._log_p = torch.zeros_like(losses)
        check_shape(self, losses, len(self._log_p))
        self._log_p = (self._log_p - self.robust_step_size * losses).log_softmax(0)
        indicators = self._log_p.exp() * (losses.sum() / losses)
        weights = _group_means(indicators, min(self.num_groups, len(losses)))
        return (weights * values).sum()


def _group_means(numbers: Tensor, groups: int) -> Tensor:
    """Replaces each number by the mean of its cluster, for an optimal K-means clustering."""
    # Clusters of numbers are intervals of their sorted order, so dynamic programming over the costs
    # of all intervals finds the optimal clusters in O(groups K²).
    ordered, order = numbers.double().cpu().sort()
    n = len(ordered)
    zero = ordered.new_zeros(1)
    sums = torch.cat([zero, ordered.cumsum(0)])
    # Centred, so that the difference of squares does not cancel.
    centred = ordered - ordered.mean()
    first, second = (torch.cat([zero, part.cumsum(0)]) for part in (centred, centred.square()))
    length = torch.arange(n + 1)
    length = length[None, :] - length[:, None]
    inside = length > 0
    between = first[None, :] - first[:, None]
    cost = (second[None, :] - second[:, None]) - between.square() / length.clamp(min=1)
    cost = cost.clamp(min=0).where(inside, torch.inf)
    best = cost[0]
    starts = []
    for _ in range(groups - 1):
        best, start = (best[:, None] + cost).min(0)
        starts.append(start.tolist())
    means = torch.empty_like(ordered)
    end = n
    for start in [*reversed(starts), [0] * (n + 1)]:
        means[start[end] : end] = (sums[end] - sums[start[end]]) / max(end - start[end], 1)
        end = start[end]
    return torch.empty_like(means).index_copy(0, order, means).to(numbers)
