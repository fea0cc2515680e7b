"""Common base of Multi-MNIST and its small version: two pictures in one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ._batches import TensorBatches
from ._benchmark import Benchmark, Split
from ._images import unit_range
from ._metrics import accuracy

CLASSES = 10


class OverlaidPairs(Benchmark):
    """Classification of two overlapping pictures in one image, top left and bottom right.

    A batch is a tuple of images, left labels and right labels.

    Args:
        data: The images (in [0, 1], or uint8) and the labels of each split.
    """

    tasks = ("left", "right")

    def __init__(self, data: Mapping[Split, tuple[Tensor, ...]]) -> None:
        self.metrics = {task: {"accuracy": accuracy(CLASSES)} for task in self.tasks}
        self._data = data

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> TensorBatches:
        return TensorBatches(self._data[split], batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        x, *labels = batch
        targets = dict(zip(self.tasks, labels, strict=True))
        return {t: (logits, targets[t]) for t, logits in model(unit_range(x), tasks).items()}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return F.cross_entropy(prediction, target)


def overlaid(left: Tensor, right: Tensor, canvas: int) -> Tensor:
    """Overlays pictures top left and bottom right, with the maximum where they overlap.

    Args:
        left: The pictures top left, shape ``[N, side, side]``.
        right: The pictures bottom right, of the same shape.
        canvas: The side of the images.

    Returns:
        Images of shape ``[N, 1, canvas, canvas]``.
    """
    side = left.shape[-1]
    images = left.new_zeros(len(left), 1, canvas, canvas)
    images[:, 0, :side, :side] = left
    corner = images[:, 0, -side:, -side:]
    corner.copy_(torch.maximum(corner, right))
    return images
