"""Whose gradient it is that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from samo._errors import NonFiniteError
from samo.engine._rows import Scale
from samo.engine._setting import Setting
from samo.tensors._vector import Layout


def culprit(
    error: NonFiniteError,
    tasks: Sequence[str],
    loss_of: Callable[[str], Tensor],
    setting: Setting,
    scale: Scale,
) -> NonFiniteError:
    """Finds the task at fault where the gradient of a sum is not finite.

    Args:
        error: The error, which names all tasks of the sum.
        tasks: The tasks that can be evaluated.
        loss_of: Evaluates a task's loss once more.
        setting: What is the engine's.
        scale: The factor on losses before backward passes.

    Returns:
        An error that names one task, or the same one if none is found.
    """
    if len(error.tasks) == 1:
        return error
    parameters = [p for p in setting.model.parameters() if p.requires_grad]
    layout = Layout(parameters, setting.placement.spread)
    for task in [task for task in error.tasks if task in tasks]:
        with torch.enable_grad():
            loss = loss_of(task)
        gradients = setting.placement.differentiate(
            [loss], parameters, [scale.seed(loss)], retain=False
        )
        # Judged by all who hold a part of it, since they go on together. Times zero, it is zero or
        # not a number; the norm may overflow where no element does.
        value = Layout([loss], layout.spread).copy_of([loss.detach()])
        if any(v.mul_(0.0).norm().isnan() for v in (value, layout.copy_of(gradients))):
            return NonFiniteError([task], error.stage)
    return error
