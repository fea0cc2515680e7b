"""SegNet, as multi-task learning on Cityscapes and NYUv2 uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ._shared_trunk import check_sizes

LEVELS = 5


class Stages(NamedTuple):
    """What the trunk computes on its way, by level; level 0 has the full resolution.

    With f the channels of the encoder and d those of the decoder (see `channels`):

    Attributes:
        entered: After the first convolution of the encoder's level, ``[N, f, H, W] / 2^level``.
        encoded: After its last one, of the same shape.
        unpooled: What enters the decoder's level, of the same shape.
        decoded: What leaves it, with d channels.
    """

    entered: list[Tensor]
    encoded: list[Tensor]
    unpooled: list[Tensor]
    decoded: list[Tensor]


class SegNetTrunk(nn.Module):
    """The encoder and the decoder of SegNet.

    Args:
        width: The channels of the first level.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        encoded, decoded = channels(width)
        # The two levels of the highest resolution have two convolutions, the others three.
        lengths = [2, 2, 3, 3, 3]
        self.entrances = nn.ModuleList(map(convolution, [3, *encoded[:-1]], encoded))
        self.encoder = nn.ModuleList(
            _convolutions(size, size, length - 1)
            for size, length in zip(encoded, lengths, strict=True)
        )
        self.decoder = nn.ModuleList(map(_convolutions, encoded, decoded, lengths))

    def forward(self, x: Tensor) -> Stages:
        """Encodes and decodes images.

        Args:
            x: Images, ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            All that is computed on the way.

        Raises:
            ValueError: If the size of the images is no multiple of 32.
        """
        unit = 2**LEVELS
        if x.shape[-2] % unit or x.shape[-1] % unit:
            size = f"{x.shape[-2]} × {x.shape[-1]}"
            raise ValueError(f"height and width must be multiples of {unit}; found {size}.")
        stages = Stages([], [], [], [])
        indices = []
        for entrance, encoder in zip(self.entrances, self.encoder, strict=True):
            stages.entered.append(entrance(x))
            stages.encoded.append(encoder(stages.entered[-1]))
            x, where = F.max_pool2d(stages.encoded[-1], 2, return_indices=True)
            indices.append(where)
        for level in reversed(range(LEVELS)):
            unpooled = F.max_unpool2d(x, indices[level], [2, 2])
            x = self.decoder[level](unpooled)
            stages.unpooled.insert(0, unpooled)
            stages.decoded.insert(0, x)
        return stages


class SegNet(nn.Module):
    """SegNet with a head for each task, all of it shared but the heads ("split").

    Five levels of 64, 128, 256, 512 and 512 channels; two (levels 0 and 1) or three 3 × 3
    convolutions with batch normalisation and ReLU in each, 2 × 2 max-pooling after it; the decoder
    is its mirror image and unpools to where the maxima were. A head is a 3 × 3 convolution of 64
    channels and a 1 × 1 convolution, nothing between them. From the code of MTAN (Liu et al., CVPR
    2019, arXiv:1803.10704), which the benchmarks of multi-task optimisation took over. Parameters:
    25,055,185 for NYUv2 (13, 1 and 3 channels), 25,017,672 for Cityscapes (7 and 1).

    Initialised as there: the weights of convolutions by Xavier's normal distribution, their biases
    zero; batch normalisation by ones and zeros.

    Takes images of shape ``[N, 3, H, W]``, H and W multiples of 32, and gives outputs of shape
    ``[N, channels, H, W]``, as they come: the log-softmax of the classes and the unit length of
    normals, which the authors' network ends in, are left to the loss.

    Args:
        tasks: The channels of each task's output, by its name.
        width: The channels of the first level.

    Raises:
        ValueError: If there is no task, or a size is below 1.

    Example:
        >>> import torch
        >>> network = SegNet({"segmentation": 13, "depth": 1}, width=2)
        >>> network(torch.rand(2, 3, 32, 64), ["depth"])["depth"].shape
        torch.Size([2, 1, 32, 64])
    """

    def __init__(self, tasks: Mapping[str, int], *, width: int = 64) -> None:
        check_sizes(tasks, width=width, **tasks)
        super().__init__()
        self.trunk = SegNetTrunk(width)
        self.heads = prediction_heads(tasks, width)
        self.apply(initialise)

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the trunk once and the heads that are asked for.

        Args:
            x: Images.
            tasks: The tasks.

        Returns:
            The output of each of the tasks.
        """
        features = self.trunk(x).decoded[0]
        return {task: self.heads[task](features) for task in tasks}


def channels(width: int) -> tuple[list[int], list[int]]:
    """The channels of each level, level 0 first: inside the encoder, and out of the decoder."""
    encoded = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    return encoded, [width, *encoded[:-1]]


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """A 3 × 3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def prediction_heads(tasks: Mapping[str, int], width: int) -> nn.ModuleDict:
    """The head of each task: a 3 × 3 and a 1 × 1 convolution."""
    return nn.ModuleDict(
        {
            task: nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, outputs, 1))
            for task, outputs in tasks.items()
        }
    )


def initialise(module: nn.Module) -> None:
    """Initialises a convolution as MTAN's code does; batch normalisation has that by default."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _convolutions(inputs: int, outputs: int, length: int) -> nn.Sequential:
    sizes = [inputs, *[outputs] * length]
    return nn.Sequential(*(convolution(before, after) for before, after in pairwise(sizes)))
