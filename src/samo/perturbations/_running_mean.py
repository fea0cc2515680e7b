"""The running mean of past gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from samo.tensors import shards


class RunningMean:
    """v, the running mean of the gradients that the steps of an engine have added to ``.grad``.

    Args:
        beta: The decay β.

    Attributes:
        values: v by parameter, for those that a step has reached.
    """

    def __init__(self, beta: float) -> None:
        self._beta = beta
        self.values: dict[str, Tensor] = {}

    def learn(self, gradients: Mapping[str, Tensor]) -> None:
        """Adds the gradients of a step, by the names of the parameters that it reaches.

        The values before are not changed, but replaced, so that an interrupt does no harm.
        """
        means: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            before = self.values.get(name)
            means[name] = (
                torch.zeros_like(gradient)
                if before is None
                else before.to(gradient.device, copy=True)
            )
        mean = shards(list(means.values()))
        torch._foreach_lerp_(mean, shards(list(gradients.values())), 1 - self._beta)
        self.values = {**self.values, **means}

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of v, by parameter."""
        return {name: mean.clone() for name, mean in self.values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self.values = {name: mean.clone() for name, mean in state.items()}
