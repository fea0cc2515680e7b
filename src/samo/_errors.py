"""Errors that the engine raises."""

from __future__ import annotations

from collections.abc import Sequence


class PartitionError(ValueError):
    """The parameters cannot be divided into shared ones and the tasks' own."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite.

    The parameters are restored and ``.grad`` is unchanged when this is raised.

    Attributes:
        tasks: The task at fault; several names if the gradient of their sum is at fault and none of
            theirs alone.
        stage: Where in the step it was detected, for instance ``"natural loss"``.
    """

    def __init__(self, tasks: Sequence[str], stage: str) -> None:
        self.tasks = tuple(tasks)
        self.stage = stage
        noun = "task" if len(self.tasks) == 1 else "tasks"
        names = ", ".join(repr(task) for task in self.tasks)
        super().__init__(
            f"The {stage} of {noun} {names} is not finite (NaN or infinity). Parameters are "
            f"restored and .grad is untouched; look for a diverging loss, a logarithm or a "
            f"division of zero, or too large a learning rate or rho."
        )


class RankError(RuntimeError):
    """Another rank has failed, or can no longer be reached.

    Raised on the ranks that have not failed, at the place where they needed the other. Parameters
    are restored and ``.grad`` is unchanged, as after any other exception.
    """
