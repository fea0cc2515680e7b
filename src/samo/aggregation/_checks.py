"""Checks of the losses and gradients that methods receive."""

from __future__ import annotations

from torch import Tensor


def check_positive(method: object, losses: Tensor) -> None:
    """Checks that losses have a logarithm.

    Args:
        method: The method, for the message.
        losses: The losses.

    Raises:
        ValueError: If a loss is zero or negative.
    """
    if not (losses > 0).all():
        raise ValueError(
            f"{type(method).__name__} needs positive losses; found {losses.detach().tolist()}."
        )


def check_shape(method: object, losses: Tensor, n_tasks: int) -> None:
    """Checks the number of losses.

    Args:
        method: The method, for the message.
        losses: The losses.
        n_tasks: The number of tasks K of the method.

    Raises:
        ValueError: If the shape is not ``[K]``.
    """
    if losses.shape != (n_tasks,):
        raise ValueError(
            f"{type(method).__name__} was made for {n_tasks} tasks; found losses of shape "
            f"{tuple(losses.shape)}."
        )


def check_same_shape(method: object, matrix: Tensor, kept: Tensor) -> None:
    """Checks that gradients have the shape of those that a method keeps.

    Args:
        method: The method, for the message.
        matrix: The gradients.
        kept: The kept gradients of earlier calls.

    Raises:
        ValueError: If the shapes differ.
    """
    if matrix.shape != kept.shape:
        raise ValueError(
            f"{type(method).__name__} keeps gradients of shape {tuple(kept.shape)}; found "
            f"{tuple(matrix.shape)}. Call reset() before the tasks or the shared parameters change."
        )
