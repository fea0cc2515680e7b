"""SegNet, as used in multi-task learning on Cityscapes and NYUv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ._shared_trunk import check_sizes

LEVELS = 5


class Stages(NamedTuple):
    """The intermediate features of the trunk, by level; level 0 has the full resolution.

    With f channels in the encoder and d in the decoder (see `channels`):

    Attributes:
        entered: After the first convolution of the encoder, ``[N, f, H / 2^level, W / 2^level]``.
        encoded: After the last convolution of the encoder, of the same shape.
        unpooled: The input of the decoder, of the same shape.
        decoded: The output of the decoder, with d channels.
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
            All intermediate features.

        Raises:
            ValueError: If height or width is not a multiple of 32.
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
    """SegNet with a head for each task; all other parameters are shared ("split").

    Five levels of 64, 128, 256, 512 and 512 channels; two (levels 0 and 1) or three 3 × 3
    convolutions with batch normalisation and ReLU in each, followed by 2 × 2 max-pooling; the
    decoder mirrors the encoder and unpools to the positions of the maxima. A head is a 3 × 3
    convolution of 64 channels and a 1 × 1 convolution, without an activation between them. From the
    code of MTAN (Liu et al., CVPR 2019, arXiv:1803.10704), which the benchmarks of multi-task
    optimisation adopted. Parameters: 25,055,185 for NYUv2 (13, 1 and 3 channels), 25,017,672 for
    Cityscapes (7 and 1).

    Initialisation as in that code: the weights of convolutions by Xavier normal, their biases by
    zeros; batch normalisation by ones and zeros.

    Takes images of shape ``[N, 3, H, W]``, H and W multiples of 32, and returns outputs of shape
    ``[N, channels, H, W]``. The authors' network ends in log-softmax (classes) and normalisation
    (normals), which are left to the loss here.

    Args:
        tasks: The output channels of each task.
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
        """Evaluates the trunk once and the heads of the requested tasks."""
        features = self.trunk(x).decoded[0]
        return {task: self.heads[task](features) for task in tasks}


def channels(width: int) -> tuple[list[int], list[int]]:
    """Returns the channels of each level, level 0 first: of the encoder, and of the decoder."""
    encoded = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    return encoded, [width, *encoded[:-1]]


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Creates a 3 × 3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def prediction_heads(tasks: Mapping[str, int], width: int) -> nn.ModuleDict:
    """Creates the head of each task: a 3 × 3 and a 1 × 1 convolution."""
    return nn.ModuleDict(
        {
            task: nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, outputs, 1))
            for task, outputs in tasks.items()
        }
    )


def initialise(module: nn.Module) -> None:
    """Initialises a convolution as MTAN's code does."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _convolutions(inputs: int, outputs: int, length: int) -> nn.Sequential:
    sizes = [inputs, *[outputs] * length]
    return nn.Sequential(*(convolution(before, after) for before, after in pairwise(sizes)))
