"""Errors that the engine raises."""

from __future__ import annotations

from collections.abc import Sequence


class PartitionError(ValueError):
    """The parameters cannot be divided into shared parameters and the tasks' own."""


class ClosureError(ValueError):
    """A losses closure does not evaluate the model anew, from inputs to losses, at each call."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found} The losses closure is called several times a step, at different values of "
            f"the parameters: each call has to evaluate the model anew, from its inputs to the "
            f"losses, without backward(). Move what is computed outside of the closure into it, or "
            f"detach() it if it is to stay fixed."
        )


def explained(error: RuntimeError) -> Exception:
    """Returns an error of a backward pass that says what a closure must do, if it is known."""
    if "backward through the graph a second time" in str(error):
        return ClosureError("A part of the losses' graph has been freed by another backward pass.")
    if "modified by an inplace operation" in str(error):
        error.add_note(
            "A step differentiates one graph several times, unless the weights are known before "
            "the gradients or level='representation': an operation that writes to what its "
            "backward pass needs, or a backward formula that does, allows one pass only."
        )
    return error


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite.

    The parameters are restored and ``.grad`` is unchanged when this is raised.

    Attributes:
        tasks: The task at fault; several tasks if only the gradient of their summed losses is not
            finite.
        stage: The stage of the step that detected it, for instance ``"natural loss"``.
    """

    def __init__(self, tasks: Sequence[str], stage: str) -> None:
        self.tasks = tuple(tasks)
        self.stage = stage
        noun = "task" if len(self.tasks) == 1 else "tasks"
        names = ", ".join(repr(task) for task in self.tasks)
        super().__init__(
            f"The {stage} of {noun} {names} is not finite (NaN or infinity). Parameters are "
            f"restored and .grad is unchanged. Check for a diverging loss, a logarithm of zero, a "
            f"division by zero (the mean over no labels), or a learning rate or rho that is too "
            f"large. A task without labels in a batch may be left out of the losses."
        )


class RankError(RuntimeError):
    """Another rank has failed, or can no longer be reached.

    Raised on the other ranks when they next communicate. Parameters are restored and ``.grad`` is
    unchanged, as after any other exception.
    """
