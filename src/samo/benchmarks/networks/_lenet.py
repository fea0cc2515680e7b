"""The LeNet of the Multi-MNIST literature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ._shared_trunk import SharedTrunk, check_sizes

# After two convolutions (9 × 9 and 5 × 5, no padding), each with 2 × 2 pooling, one pixel is left.
_SMALLEST_SIDE = 20


class LeNet(SharedTrunk):
    """The LeNet for Multi-MNIST's 36 × 36 images, with a linear head for each task.

    Two convolutions (9 × 9 to 10 channels, 5 × 5 to 20), each with ReLU and 2 × 2 max-pooling, a
    fully connected layer of 50 with ReLU, and a head ``Linear(50, 10)`` per task: 31,910 parameters
    for two tasks. The network of Pareto MTL (Lin et al., NeurIPS 2019, arXiv:1912.12854), which
    later work on these images adopted. PyTorch's default initialisation.

    Takes images of shape ``[N, channels, side, side]``, returns logits of shape ``[N, classes]``.

    Args:
        tasks: The names of the tasks.
        classes: The number of classes of each task.
        channels: The channels of an image.
        side: The side of an image in pixels, at least 20.
        width: The channels of the first convolution; the second has twice as many, and the fully
            connected layer five times as many.

    Raises:
        ValueError: If there is no task, or a size is too small.

    Example:
        >>> import torch
        >>> network = LeNet(["left", "right"])
        >>> network(torch.zeros(4, 1, 36, 36), ["right"])["right"].shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        classes: int = 10,
        channels: int = 1,
        side: int = 36,
        width: int = 10,
    ) -> None:
        check_sizes(tasks, classes=classes, channels=channels, width=width)
        if side < _SMALLEST_SIDE:
            raise ValueError(f"side must be at least {_SMALLEST_SIDE}; found {side}.")
        left = ((side - 8) // 2 - 4) // 2
        trunk = nn.Sequential(
            nn.Conv2d(channels, width, 9),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * left**2, 5 * width),
            nn.ReLU(),
        )
        # With so few channels, a CPU takes less than two thirds of the time of contiguous format.
        trunk = trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(trunk, {task: nn.Linear(5 * width, classes) for task in tasks})
