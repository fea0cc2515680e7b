"""The capability of methods that learn from the rise of the losses along the perturbation."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from torchjd import Stateful


class SeesSharpness(Stateful):
    r"""Base class of scalarizers that learn from the sharpness.

    Let all tasks have one perturbation :math:`\varepsilon = \rho\, d / \lVert d \rVert` of the
    shared parameters, along the weighted gradient :math:`d = \sum_j w_j \nabla_\theta l_j`. With
    the Gramian G of the task gradients, the losses then rise by

    .. math::
        s_i = l_i(\theta + \varepsilon) - l_i(\theta)
            = \rho \frac{(G w)_i}{\lVert d \rVert} + O(\rho^2)

    Both passes of a step of `samo.GSAM` thus show how much the direction d improves each task,
    although no task's gradient is computed. The engine perturbs along d, and passes s to
    `see_sharpness` after each step. It needs a perturbation with ``alpha=1`` and ``rho_own=0``,
    since perturbed heads would add to the rise.

    Example:
        Gives more weight to tasks that rise less, and so improve less.

        >>> import torch
        >>> from torchjd.scalarization import Scalarizer
        >>> from samo.aggregation import SeesSharpness
        >>> class ByRise(Scalarizer, SeesSharpness):
        ...     def reset(self):
        ...         self.weights = torch.ones(2)
        ...
        ...     def see_sharpness(self, rises, present, /):
        ...         self.weights = self.weights.index_copy(0, present, 1 / rises)
        ...
        ...     def forward(self, values, /):
        ...         return (self.weights * values).sum()
        >>> method = ByRise()
        >>> method.reset()
        >>> method.see_sharpness(torch.tensor([0.5, 2.0]), torch.tensor([0, 1]))
        >>> method(torch.tensor([1.0, 1.0]))
        tensor(2.5000)
    """

    weights: Tensor
    """The weights w of all K tasks in the next step's direction d."""

    @abstractmethod
    def see_sharpness(self, rises: Tensor, present: Tensor, /) -> None:
        """Receives the rises of the losses in a step.

        Args:
            rises: The rises s_i of the present tasks, of shape ``[len(present)]``.
            present: The indices of the present tasks.
        """
