"""Single-task learning."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd.scalarization import Scalarizer

from ._checks import check_shape


@final
class STL(Scalarizer):
    r"""Single-task learning: one task's loss, the others' weight is 0.

    .. math::
        S(l) = l_t

    The baseline that multi-task learning is compared with, where each task has a run of its own.
    Running it with the other tasks present keeps everything else the same; it costs their forward
    passes.

    Args:
        n_tasks: The number of tasks K.
        task: Which one to learn, 0 to K - 1.

    Raises:
        ValueError: If there is no such task.

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
        # Of length K, so that the engine shows the losses of absent tasks too: `task` is a
        # position among all of them.
        self.register_buffer("weights", torch.zeros(n_tasks).index_fill(0, torch.tensor(task), 1.0))

    def forward(self, values: Tensor, /) -> Tensor:
        """Scalarizes.

        Args:
            values: The losses, ``[K]``.

        Returns:
            The task's.

        Raises:
            ValueError: If they are not of K tasks.
        """
        check_shape(self, values, self.n_tasks)
        return values[self.task]

    def __repr__(self) -> str:
        return f"STL(n_tasks={self.n_tasks}, task={self.task})"
