"""SegNet with the attention modules of MTAN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._segnet import (
    LEVELS,
    SegNetTrunk,
    Stages,
    channels,
    convolution,
    initialise,
    prediction_heads,
)
from ._shared_trunk import check_sizes


class SegNetMTAN(nn.Module):
    """SegNet with an attention network for each task (MTAN).

    At each level of `SegNet`, each task has a soft mask that selects from the level's last features
    p and yields the attention a. With u the features before p (after the level's first convolution
    in the encoder, the unpooled ones in the decoder), h the task's attention from the previous
    level, and two convolutions f (3 × 3) and g (1 × 1, twice)::

        encoder:  a = g([u; h]) ⊙ p,      h = max-pooled f(a)
        decoder:  a = g([u; f(h↑)]) ⊙ p,  h = a          (↑: bilinear, twice the size)

    The masks g are task-specific; all tasks share the convolutions f of a level. Layer for layer
    the network of MTAN (Liu et al., CVPR 2019, arXiv:1803.10704), with the heads and the
    initialisation of `SegNet`. Parameters: 44,229,073 for NYUv2 (13, 1 and 3 channels), 41,206,984
    for Cityscapes (7 and 1).

    The published experiments count all parameters but the heads as shared (of NYUv2's 44,229,073
    parameters, all but 111,889). They balance the gradients of the masks too, although each mask
    affects only one task. By default `Engine` follows the autograd graph and counts the masks as
    task-specific: their gradients are then used as they are and do not enter the Gramian. To follow
    the experiments, declare the heads: ``samo.Engine(network, tasks, own=network.heads, ..)``.

    Evaluating one task costs the trunk and that task's attention. Takes images of shape
    ``[N, 3, H, W]``, H and W multiples of 32, and returns outputs of shape
    ``[N, channels, H, W]`` without a final activation (see `SegNet`).

    Args:
        tasks: The output channels of each task.
        width: The channels of the first level.

    Raises:
        ValueError: If there is no task, or a size is below 1.

    Example:
        >>> network = SegNetMTAN({"segmentation": 13, "depth": 1}, width=2)
        >>> network(torch.rand(2, 3, 32, 64), ["depth"])["depth"].shape
        torch.Size([2, 1, 32, 64])
    """

    def __init__(self, tasks: Mapping[str, int], *, width: int = 64) -> None:
        check_sizes(tasks, width=width, **tasks)
        super().__init__()
        encoded, decoded = channels(width)
        self.trunk = SegNetTrunk(width)
        self.masks = nn.ModuleDict({task: _Masks(encoded, decoded) for task in tasks})
        # The convolutions between the levels of the attention networks, which all tasks share.
        self.encoder_links = nn.ModuleList(map(convolution, encoded, [*encoded[1:], encoded[-1]]))
        self.decoder_links = nn.ModuleList(map(convolution, encoded, decoded))
        self.heads = prediction_heads(tasks, width)
        self.apply(initialise)

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the trunk once, and attention and heads of the requested tasks."""
        stages = self.trunk(x)
        return {task: self.heads[task](self._attended(task, stages)) for task in tasks}

    def _attended(self, task: str, stages: Stages) -> Tensor:
        """Computes a task's attention through all levels of encoder and decoder."""
        masks = cast(_Masks, self.masks[task])
        before: list[Tensor] = []
        for level in range(LEVELS):
            mask = masks.encoder[level](torch.cat([stages.entered[level], *before], dim=1))
            attended = self.encoder_links[level](mask * stages.encoded[level])
            before = [F.max_pool2d(attended, 2)]
        (x,) = before
        for level in reversed(range(LEVELS)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.decoder_links[level](x)
            mask = masks.decoder[level](torch.cat([stages.unpooled[level], x], dim=1))
            x = mask * stages.decoded[level]
        return x


class _Masks(nn.Module):
    """The masks of one task, by level."""

    def __init__(self, encoded: Sequence[int], decoded: Sequence[int]) -> None:
        super().__init__()
        # The first level has no attention from a previous level.
        inputs = [encoded[0], *(2 * size for size in encoded[1:])]
        self.encoder = nn.ModuleList(map(_mask, inputs, encoded))
        self.decoder = nn.ModuleList(
            _mask(inside + outside, outside)
            for inside, outside in zip(encoded, decoded, strict=True)
        )


def _mask(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )
