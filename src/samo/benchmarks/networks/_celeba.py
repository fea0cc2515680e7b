"""The nine-layer CNN of the CelebA benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ._shared_trunk import SharedTrunk, check_sizes


class CelebACNN(SharedTrunk):
    """The nine-layer CNN for CelebA's 64 × 64 images, with a linear head for each attribute.

    Seven 3 × 3 convolutions of 64, 128, 128, 256, 256, 512 and 512 channels (max-pooling after the
    first, third and fifth, the mean over the image after the last) and two fully connected layers
    of 512, all without bias, with batch normalisation and ReLU; a head ``Linear(512, 1)`` per task.
    5,197,160 parameters with 40 heads. The network of FAMO (Liu et al., NeurIPS 2023,
    arXiv:2306.03792), which FairGrad and SAMO adopted. PyTorch's default initialisation.

    Takes images of shape ``[N, 3, H, W]``, H and W at least 8, and returns logits of shape ``[N]``
    (the authors' network ends in a sigmoid).

    Args:
        tasks: The names of the tasks.
        width: The channels of the first convolution.

    Raises:
        ValueError: If there is no task, or `width` is below 1.

    Example:
        >>> import torch
        >>> network = CelebACNN(["Smiling", "Young"], width=4)
        >>> network(torch.rand(5, 3, 64, 64), ["Young"])["Young"].shape
        torch.Size([5])
    """

    def __init__(self, tasks: Sequence[str], *, width: int = 64) -> None:
        check_sizes(tasks, width=width)
        last = 8 * width
        trunk = nn.Sequential(
            *_convolution(3, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            *_convolution(4 * width, 4 * width),
            nn.MaxPool2d(2),
            *_convolution(4 * width, last),
            *_convolution(last, last),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *_fully_connected(last),
            *_fully_connected(last),
        )
        heads = {task: nn.Sequential(nn.Linear(last, 1), nn.Flatten(0)) for task in tasks}
        super().__init__(trunk, heads)


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _fully_connected(width: int) -> list[nn.Module]:
    return [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
