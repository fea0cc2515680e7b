"""Single-task learning."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.scalarization import Scalarizer

from ._checks import check_shape
from ._options import ConstructorRepr


@final
class STL(ConstructorRepr, Scalarizer):
    r"""Single-task learning: the loss of one task; the weights of the others are 0.

    .. math::
        S(l) = l_t

    The baseline of multi-task learning, with one run for each task. The other tasks are still
    evaluated, so that everything else is equal, at the cost of their forward passes.

    Args:
        n_tasks: The number of tasks K.
        task: The index of the trained task, 0 to K - 1.

    Raises:
        ValueError: If ``task`` is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import STL
        >>> STL(3, task=1)(torch.tensor([1.0, 2.0, 3.0]))
        tensor(2.)
    """

    weights: Tensor

    def __init__(self, n_tasks: int, task: int = 0) -> None:
        super().__init__()
        if not isinstance(task, int) or not 0 <= task < n_tasks:
            raise ValueError(f"task must be an integer in 0..{n_tasks - 1}; found {task!r}.")
        self.n_tasks = n_tasks
        self.task = task
        # A tensor of length K makes the engine also pass losses of absent tasks: `task` is an index
        # among all tasks.
        self.register_buffer("weights", torch.zeros(n_tasks).index_fill(0, torch.tensor(task), 1.0))

    def forward(self, values: Tensor, /) -> Tensor:
        """Returns the loss of the task, from the losses ``[K]``."""
        check_shape(self, values, self.n_tasks)
        return values[self.task]
