"""The running mean of past gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from samo.tensors import shards


class RunningMean:
    """v, the running mean of the gradients that the steps of an engine have added to ``.grad``.

    Args:
        beta: The decay β.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self._mean: dict[str, Tensor] = {}

    def of(self, names: Iterable[str]) -> list[Tensor | None]:
        """Returns v of some parameters; None where it is zero so far."""
        return [self._mean.get(name) for name in names]

    def learn(self, gradients: Mapping[str, Tensor]) -> None:
        """Adds the gradients of a step, by the names of the parameters that it reaches."""
        for name, gradient in gradients.items():
            if name not in self._mean:
                self._mean[name] = torch.zeros_like(gradient)
        mean = shards([self._mean[name] for name in gradients])
        torch._foreach_lerp_(mean, shards(list(gradients.values())), 1 - self._beta)

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of v, by parameter."""
        return {name: mean.clone() for name, mean in self._mean.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._mean = {name: mean.clone() for name, mean in state.items()}
