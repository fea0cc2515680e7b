"""FairRise: α-fair weights that follow the rise of the losses."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.scalarization import Scalarizer

from ._checks import check_shape
from ._options import ConstructorRepr, ranged
from ._sees_sharpness import SeesSharpness

# The decay of the running mean of the excess. It damps the oscillation of weights of tasks whose
# gradients nearly cancel.
_BETA = 0.9


@final
class FairRise(ConstructorRepr, Scalarizer, SeesSharpness):
    r"""α-fair weights that follow the rise of the losses.

    The weights of `FairGrad` solve :math:`G w = w^{-1/\alpha}`, with the Gramian G of the task
    gradients. With a perturbation of radius ρ along :math:`d = \sum_j w_j \nabla_\theta l_j`, the
    losses rise by :math:`s_i = \rho (G w)_i / \lVert d \rVert` to first order (`SeesSharpness`).
    After each step, the weights move towards the solution, up to a common factor:

    .. math::
        u_i = \frac{s_i w_i^{1/\alpha}}{c}, \qquad
        c = \frac{\sum_j w_j s_j}{\sum_j w_j^{1 - 1/\alpha}}, \qquad
        m_i \leftarrow \beta m_i + (1 - \beta) \frac{u_i - 1}{|u_i| + 1}, \qquad
        w_i \leftarrow w_i e^{-\gamma m_i}

    with :math:`\beta = 0.9` and :math:`w = 1`, :math:`m = 0` initially. Where the direction is that
    of FairGrad, all u_i are 1. A task that gains less than its share has :math:`u_i < 1`, or
    :math:`u_i < 0` if d makes it worse, and gets more weight. After each update the weights are
    multiplied by a common factor that keeps the sum K, whereas those of FairGrad grow as the
    gradients shrink.

    A step costs two forward and two backward passes for any number of tasks, as `samo.GSAM` with
    equal weights, and stores no matrix of task gradients. Use it as ``samo.GSAM(.., rho_own=0)``,
    with a small radius: rises of second order in ρ, the curvature of the losses, count like
    gradients.

    The weights of the tasks present in a step change among each other. Those of a task that is
    absent, or whose loss does not change at all, stay as they are, and so do all in a step that
    does not raise the weighted loss. The weights apply to the tasks' own parameters as well.

    Args:
        n_tasks: The number of tasks K.
        alpha: The fairness α, above 0.
        gamma: The largest relative change γ of a weight in a step, above 0.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        For the Gramian diag(4, 1), the weights of FairGrad have the ratio
        :math:`4^{-\alpha / (1 + \alpha)} = 1/2` with α = 1.

        >>> import torch
        >>> from samo.aggregation import FairRise
        >>> method = FairRise(2, alpha=1.0)
        >>> gramian = torch.tensor([4.0, 1.0]).diag().double()
        >>> for _ in range(500):
        ...     w = method.weights
        ...     rises = 0.01 * gramian @ w / (w @ gramian @ w).sqrt()
        ...     method.see_sharpness(rises, torch.tensor([0, 1]))
        >>> method.weights
        tensor([0.6667, 1.3333], dtype=torch.float64)
    """

    alpha: float = ranged(0, open_low=True)
    gamma: float = ranged(0, open_low=True)

    def __init__(self, n_tasks: int, alpha: float = 2.0, gamma: float = 0.1) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.alpha = alpha
        self.gamma = gamma
        self.reset()

    def reset(self) -> None:
        """Resets the weights to ones."""
        self.weights = torch.ones(self.n_tasks, dtype=torch.float64)
        self._excess = torch.zeros(self.n_tasks, dtype=torch.float64)

    def see_sharpness(self, rises: Tensor, present: Tensor, /) -> None:
        """Updates the weights of the present tasks."""
        changed = rises != 0
        present, s = present[changed], rises[changed].to(self.weights)
        w = self.weights[present]
        c = (w * s).sum() / w.pow(1 - 1 / self.alpha).sum()
        if not c > 0:
            return
        u = s * w.pow(1 / self.alpha) / c
        excess = self._excess[present].lerp((u - 1) / (u.abs() + 1), 1 - _BETA)
        moved = w * (-self.gamma * excess).exp()
        self._excess = self._excess.index_copy(0, present, excess)
        self.weights = self.weights.index_copy(0, present, moved * (w.sum() / moved.sum()))

    def forward(self, values: Tensor, /) -> Tensor:
        """Returns the sum of the losses, ``[K]``, with constant weights."""
        check_shape(self, values, self.n_tasks)
        return (self.weights.to(values) * values).sum()
