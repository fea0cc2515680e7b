"""The gradient of the previous step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from samo.tensors import Vector

from ._estimator import LocalGradient, Probe


class PreviousGradient(LocalGradient):
    """ĝ_i = task i's sharpness-aware gradient of the previous step; g_0 at its first step.

    It costs no pass, but the memory of one gradient per task. For a task that was absent from the
    previous step, its last gradient is used. Each engine works with its own copy of the estimator.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.05, local=samo.PreviousGradient()).local
        PreviousGradient()
    """

    remembers: ClassVar[bool] = True
    stateful: ClassVar[bool] = True

    def __init__(self) -> None:
        self._gradients: dict[str, Mapping[str, Tensor]] = {}

    def estimate(self, probe: Probe) -> Vector:
        """Returns the recorded gradient, with g_0 for parameters that have none yet."""
        mean, known = probe.mean, self._gradients.get(probe.task, {})
        pairs = zip(probe.names, mean.tensors, strict=True)
        return mean.layout.copy_of([known.get(name, tensor) for name, tensor in pairs])

    def remember(self, task: str, gradient: Mapping[str, Tensor]) -> None:
        """Records g_i for the next step."""
        self._gradients[task] = gradient

    def state_dict(self) -> dict[str, Any]:
        """Returns the recorded gradients by task and parameter."""
        return {task: dict(kept) for task, kept in self._gradients.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._gradients = {task: dict(kept) for task, kept in state.items()}

    def __repr__(self) -> str:
        return "PreviousGradient()"
