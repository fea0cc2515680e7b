"""The gradient of the step before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from samo.tensors._vector import Vector

from ._base import Probe, Remembering


class PreviousGradient(Remembering):
    """ĝ_i = task i's sharpness-aware gradient of the step before; g_0 at its first step.

    It costs no pass at all, but the memory of one gradient a task. A task that was absent from the
    step before is remembered from its last one. Each engine remembers for itself: it works with a
    copy of the estimator that it is given.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.05, local=samo.PreviousGradient()).local
        PreviousGradient()
    """

    def __init__(self) -> None:
        self._gradients: dict[str, Mapping[str, Tensor]] = {}

    def estimate(self, probe: Probe) -> Vector:
        """Returns the remembered gradient, with g_0 for parameters that have none yet."""
        mean, known = probe.mean, self._gradients.get(probe.task, {})
        pairs = zip(probe.names, mean.tensors, strict=True)
        return mean.layout.copy_of([known.get(name, tensor) for name, tensor in pairs])

    def remember(self, task: str, gradient: Mapping[str, Tensor]) -> None:
        """Keeps g_i for the next step."""
        self._gradients[task] = gradient

    def state_dict(self) -> dict[str, Any]:
        """The remembered gradients by task and parameter."""
        return {t: {n: g.clone() for n, g in kept.items()} for t, kept in self._gradients.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self._gradients = {task: dict(kept) for task, kept in state.items()}

    def __repr__(self) -> str:
        return "PreviousGradient()"
