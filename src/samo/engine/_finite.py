"""Which numbers of a step must be finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from samo._errors import NonFiniteError


class Ledger:
    """Numbers that must be finite, each with its tasks and the stage of the step it comes from.

    A number on the CPU is looked at at once. Those on other devices are kept, so as not to wait for
    the device at each, and looked at together by `verify`.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Sequence[str], str, Tensor]] = []

    def note(self, tasks: Sequence[str], stage: str, value: Tensor) -> None:
        """Enters a 0-d tensor; raises NonFiniteError if it is known not to be finite."""
        if value.device.type != "cpu":
            self._pending.append((tasks, stage, value.detach()))
        elif not math.isfinite(value.item()):
            raise NonFiniteError(tasks, stage)

    def verify(self) -> None:
        """Raises NonFiniteError for the first number entered that is not finite."""
        self.bring([])

    def bring(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Verifies, and brings tensors to the CPU in the one transfer that this takes.

        Args:
            tensors: Tensors of float64.

        Returns:
            The tensors on the CPU.

        Raises:
            NonFiniteError: For the first number entered that is not finite.
        """
        pending, self._pending = self._pending, []
        if not pending and all(tensor.device.type == "cpu" for tensor in tensors):
            return list(tensors)
        numbers = [value for _, _, value in pending]
        device = [*numbers, *tensors][0].device
        flat = [t.to(device, torch.float64).flatten() for t in [*numbers, *tensors]]
        parts = torch.cat(flat).cpu().split([part.numel() for part in flat])
        for (tasks, stage, _), value in zip(pending, parts, strict=False):
            if not math.isfinite(value.item()):
                raise NonFiniteError(tasks, stage)
        brought = parts[len(pending) :]
        return [part.view(t.shape) for part, t in zip(brought, tensors, strict=True)]
