"""The errors that are the engine's own."""

from __future__ import annotations

from collections.abc import Sequence


class PartitionError(ValueError):
    """The parameters cannot be divided into a shared part and the tasks' own parts."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite.

    The parameters are back where they were and ``.grad`` is untouched when this is raised.

    Attributes:
        tasks: The task at fault; several names where a gradient of their sum is at fault and no
            single one of them is.
        stage: Where in the step it was found, for instance ``"natural loss"``.
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
    """Another rank has failed, or cannot be reached any more.

    Raised on the ranks that are well, at the place where they needed the other. Parameters are
    back where they were and ``.grad`` is untouched, as after any other exception.
    """
