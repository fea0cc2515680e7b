"""The user's closure: asked for some tasks' losses, and its answer checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Losses = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Maps the names of the tasks that are asked for to their losses, scalar tensors."""

BatchSize = float | Mapping[str, float]
"""How many samples the losses of a closure are means over: a number, or one for each task."""


def closures_of(losses: Losses | Sequence[Losses]) -> list[Losses]:
    """Checks what `Engine.backward` was given.

    Args:
        losses: A closure, or a list of them.

    Returns:
        The closures of a step: one, or one for each micro-batch.

    Raises:
        TypeError: If there is anything but functions.
        ValueError: If the list is empty.
    """
    closures = list(losses) if isinstance(losses, Sequence) else [losses]
    if not closures:
        raise ValueError("losses is an empty list; give a closure, or one for each micro-batch.")
    for closure in closures:
        if not callable(closure):
            raise TypeError(
                f"losses must be a function of task names that returns their losses, or a list of "
                f"such functions; found {type(closure).__name__}. It is called several times a "
                f"step, so losses that were computed already cannot be used."
            )
    return closures


def evaluated(
    closure: Losses, wanted: Sequence[str], tasks: Sequence[str], *, may_leave_out: bool = False
) -> dict[str, Tensor]:
    """The losses of the tasks wanted, in their order.

    Args:
        closure: The user's closure.
        wanted: The tasks to ask for.
        tasks: All tasks of the engine.
        may_leave_out: Whether tasks may be absent (in the natural pass, which finds out).

    Returns:
        The losses of the tasks wanted, or of those that are present.

    Raises:
        TypeError: If the answer is not a mapping of names to tensors.
        ValueError: If it holds unknown tasks, lacks tasks that were asked for, or holds a loss that
            is not a scalar or has no graph.
    """
    answer = closure(list(wanted))
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"The losses closure must return a mapping of task names to losses; "
            f"found {type(answer).__name__}."
        )
    if unknown := [task for task in answer if task not in tasks]:
        raise ValueError(
            f"The losses closure returned unknown tasks {unknown}; the tasks are {list(tasks)}."
        )
    losses = {task: answer[task] for task in wanted if task in answer}
    if len(losses) < len(wanted) and not may_leave_out:
        raise ValueError(
            f"The losses closure was asked for {list(wanted)} and returned {list(answer)}. It may "
            f"leave out tasks only if it does so all through a step, and not all of them."
        )
    for task, loss in losses.items():
        _check(task, loss)
    return losses


def sizes_of(
    batch_size: BatchSize | Sequence[BatchSize] | None, closures: int, tasks: Sequence[str]
) -> list[dict[str, float]]:
    """Checks the sizes that `Engine.backward` was given.

    Args:
        batch_size: A number, or one for each task; a list of these where there are micro-batches.
        closures: The number of closures.
        tasks: All tasks of the engine.

    Returns:
        For each closure, the size for each task: 1 where none was given.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is negative or of an unknown task, or their number is not that of the
            closures.
    """
    given = list(batch_size) if isinstance(batch_size, Sequence) else [batch_size] * closures
    if len(given) != closures:
        raise ValueError(
            f"batch_size must be one size, or one for each of the {closures} closures; found "
            f"{len(given)}."
        )
    found = []
    for size in given:
        by_task = size if isinstance(size, Mapping) else dict.fromkeys(tasks, size)
        if unknown := [task for task in by_task if task not in tasks]:
            raise ValueError(f"batch_size names unknown tasks {unknown}; found {batch_size!r}.")
        for value in by_task.values():
            if value is not None and not isinstance(value, int | float):
                raise TypeError(f"batch_size must be made of numbers; found {value!r}.")
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"batch_size must be finite and at least 0; found {value!r}.")
        sizes = {task: by_task.get(task) for task in tasks}
        found.append({t: 1.0 if value is None else float(value) for t, value in sizes.items()})
    return found


def _check(task: str, loss: object) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(f"The loss of task {task!r} must be a tensor; found {type(loss).__name__}.")
    if loss.dim() != 0:
        raise ValueError(
            f"The loss of task {task!r} must be a scalar (a tensor of shape []); found shape "
            f"{list(loss.shape)}. Reduce it, for instance with .mean()."
        )
    if not loss.is_floating_point():
        raise ValueError(f"The loss of task {task!r} must be floating-point; found {loss.dtype}.")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            f"The loss of task {task!r} has no graph (requires_grad is False), so it has no "
            f"gradient: was it detached, computed under no_grad, or from frozen parameters only?"
        )
