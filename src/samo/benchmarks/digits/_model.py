"""The model of both digits benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..networks import SharedTrunk
from ._data import CLASSES


def perceptron(inputs: int, width: int, tasks: Sequence[str]) -> SharedTrunk:
    """Creates a perceptron with two shared hidden layers and a linear head for each task."""
    trunk = nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
    )
    return SharedTrunk(trunk, {task: nn.Linear(width, CLASSES) for task in tasks})
