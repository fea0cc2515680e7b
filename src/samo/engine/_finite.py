"""The loss scale of a step, and its checks for non-finite values (`samo.NonFiniteError`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from samo._errors import NonFiniteError
from samo.distributed import Placement
from samo.tensors import Layout, Vector

_Pending = tuple[Sequence[str], str, Tensor, Mapping[str, Vector] | None]


class Guard:
    """Scales losses before backward passes, and collects values that must be finite.

    Values on the CPU are checked at once. Values on other devices are collected and checked
    together by `verify`, which synchronises with the device only once.

    Args:
        factor: The scale of a ``GradScaler``, a 0-d tensor; None for no scaling.
    """

    def __init__(self, factor: Tensor | None = None) -> None:
        self.factor = factor
        self._pending: list[_Pending] = []

    def seed(self, loss: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Returns the initial gradient of a backward pass: the weight times the factor."""
        if isinstance(weight, Tensor):
            seed = weight.to(loss.device, loss.dtype)
        else:  # filled on the device, without waiting for it
            seed = torch.full((), weight, dtype=loss.dtype, device=loss.device)
        return seed if self.factor is None else seed * self.factor.to(loss.device, loss.dtype)

    def unscale_(self, vector: Vector) -> Vector:
        """Divides a gradient by the factor."""
        return vector if self.factor is None else vector.mul_(1 / self.factor)

    def scale_(self, vector: Vector) -> Vector:
        """Multiplies a gradient by the factor."""
        return vector if self.factor is None else vector.mul_(self.factor)

    def check(
        self,
        tasks: Sequence[str],
        stage: str,
        value: Tensor,
        parts: Mapping[str, Vector] | None = None,
    ) -> None:
        """Checks that a 0-d tensor is finite, at once or in `verify`.

        Args:
            tasks: The tasks that it belongs to.
            stage: The stage of the step that computed it.
            value: The tensor.
            parts: If the value is the norm of several tasks' vectors, these vectors: the error
                names the first task whose own norm is not finite.

        Raises:
            NonFiniteError: If it is on the CPU and not finite.
        """
        if value.device.type != "cpu":
            self._pending.append((tasks, stage, value.detach(), parts))
        elif not math.isfinite(value.item()):
            _fail(tasks, stage, parts)

    def verify(self) -> None:
        """Raises `NonFiniteError` for the first collected value that is not finite."""
        self.to_cpu([])

    def to_cpu(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Calls `verify` and copies float64 tensors to the CPU, in a single transfer."""
        pending, self._pending = self._pending, []
        if not pending and all(tensor.device.type == "cpu" for tensor in tensors):
            return list(tensors)
        numbers = [value for _, _, value, _ in pending]
        device = [*numbers, *tensors][0].device
        flat = [t.to(device, torch.float64).flatten() for t in [*numbers, *tensors]]
        parts = torch.cat(flat).cpu().split([part.numel() for part in flat])
        for (tasks, stage, _, its), value in zip(pending, parts, strict=False):
            if not math.isfinite(value.item()):
                _fail(tasks, stage, its)
        copies = parts[len(pending) :]
        return [part.view(t.shape) for part, t in zip(copies, tensors, strict=True)]


def _fail(tasks: Sequence[str], stage: str, parts: Mapping[str, Vector] | None) -> None:
    """Raises `NonFiniteError`, unless only the common norm of finite parts has overflowed."""
    if parts is None:
        raise NonFiniteError(tasks, stage)
    for task, part in parts.items():
        if not math.isfinite(part.norm().item()):
            raise NonFiniteError([task], stage)


def culprit(
    error: NonFiniteError,
    loss_of: Mapping[str, Callable[[], Tensor]],
    parameters: Sequence[Parameter],
    placement: Placement,
    guard: Guard,
) -> NonFiniteError:
    """Returns an error that names the task at fault for a sum's gradient, if one is found."""
    if len(error.tasks) == 1:
        return error
    layout = Layout(parameters, placement.global_sum)
    for task in [task for task in error.tasks if task in loss_of]:
        with torch.enable_grad():
            loss = loss_of[task]()
        gradients = placement.differentiate([loss], parameters, [guard.seed(loss)], retain=False)
        # The norms are summed over the ranks, so that all decide alike. A value times zero is zero
        # or NaN; the norm itself may overflow although no element does.
        value = Layout([loss], layout.global_sum).copy_of([loss.detach()])
        if any(v.mul_(0.0).norm().isnan() for v in (value, layout.copy_of(gradients))):
            return NonFiniteError([task], error.stage)
    return error
