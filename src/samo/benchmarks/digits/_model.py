"""The model of both digits benchmarks, and their loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ._data import CLASSES


class SharedTrunk(nn.Module):
    """A multilayer perceptron with a linear head for each task.

    Args:
        inputs: The number of pixels.
        width: The width of the two hidden layers.
        tasks: The names of the tasks.
    """

    def __init__(self, inputs: int, width: int, tasks: Sequence[str]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict({task: nn.Linear(width, CLASSES) for task in tasks})

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the trunk once and the heads that are asked for."""
        features = self.trunk(x)
        return {task: self.heads[task](features) for task in tasks}


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy."""
    return F.cross_entropy(prediction, target)
