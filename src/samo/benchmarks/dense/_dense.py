"""The common base of the dense-prediction benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..._names import unknown
from .._benchmark import Benchmark, Defaults, Metric, Split
from .._checks import check_at_least
from .._metrics import lazy, percentage
from ..networks import SegNet, SegNetMTAN
from ._batches import DenseBatches
from ._layout import DEPTH, IMAGE, NORMALS, SEGMENTATION, VOID, Examples
from ._losses import depth_loss, normals_loss, segmentation_loss

# The settings of the papers on NYUv2; on Cityscapes, the batch size differs.
PUBLISHED = Defaults(
    epochs=200,
    batch_size=2,
    lr=1e-4,
    rho=0.001,
    rho_grid=(1e-5, 1e-4, 1e-3, 1e-2),
    schedule="step",
    average_last=10,
)
NETWORKS = {"segnet-mtan": SegNetMTAN, "segnet": SegNet}
_UNIT = 2**5  # SegNet halves the size five times
_LOSSES = {SEGMENTATION: segmentation_loss, DEPTH: depth_loss, NORMALS: normals_loss}

Parts = Mapping[Split, tuple[Examples, Tensor]]
"""For each split, a set of images and the indices of those that belong to the split."""


class DensePrediction(Benchmark):
    """Prediction of each pixel's class, depth or surface normal.

    A batch maps ``"image"`` (values in [0, 1]) and the tasks to tensors; a task without a target in
    any pixel is left out. Training images are scaled, cropped and mirrored at random. Normals are
    predicted as unit vectors. The losses are cross-entropy, absolute error, and one minus the dot
    product, means over the pixels that have a target.

    Args:
        parts: The images of each split.
        tasks: The tasks: ``segmentation``, ``depth`` or ``normals``.
        classes: The names of the classes, in the order of the labels.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage.
        depth_unit: The unit of the depth.

    Raises:
        ValueError: If the network is unknown, the width is too small, or the network cannot process
            images of this size.
    """

    # In SegNet-MTAN, only one task depends on its masks, but published code counts them as shared.
    own = "heads"

    def __init__(
        self,
        parts: Parts,
        tasks: tuple[str, ...],
        classes: Sequence[str],
        *,
        network: str,
        width: int,
        depth_unit: str = "",
    ) -> None:
        if network not in NETWORKS:
            raise ValueError(unknown("network", network, NETWORKS))
        height, across = parts["train"][0].size
        if height % _UNIT or across % _UNIT:
            raise ValueError(
                f"height and width of the images must be multiples of {_UNIT}; found {height} and "
                f"{across}."
            )
        check_at_least(1, width=width)
        self.tasks = tasks
        self.class_names = tuple(classes)
        self.network = network
        self.width = width
        self.depth_unit = depth_unit
        self._parts = parts
        metrics = dense_metrics(len(classes), depth_unit)
        self.metrics = {task: metrics[task] for task in tasks}

    def model(self) -> nn.Module:
        channels = {SEGMENTATION: len(self.class_names), DEPTH: 1, NORMALS: 3}
        heads = {task: channels[task] for task in self.tasks}
        return NETWORKS[self.network](heads, width=self.width)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> DenseBatches:
        return DenseBatches(*self._parts[split], tuple(tasks), batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        predictions = model(batch[IMAGE], [task for task in tasks if task in batch])
        if NORMALS in predictions:
            predictions[NORMALS] = F.normalize(predictions[NORMALS], dim=1)
        return {task: (found, batch[task]) for task, found in predictions.items()}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        return _LOSSES[task](prediction, target)

    def picture(self, task: str, values: Tensor) -> np.ndarray:
        """Converts predictions or targets to pictures.

        Args:
            task: The task.
            values: Predictions or targets from `outputs`.

        Returns:
            Labels or depth of shape ``[N, H, W]``, or normals of shape ``[N, H, W, 3]``.
        """
        if task == SEGMENTATION:
            values = values.argmax(dim=1) if values.ndim == 4 else values
        else:
            values = values[:, 0] if task == DEPTH else values.movedim(1, -1)
        return np.asarray(values.cpu())


def split_parts(
    parts: Mapping[str, Examples], validation: float, seed: int
) -> dict[Split, tuple[Examples, Tensor]]:
    """Splits ``train`` into training and validation images; ``val`` is the test split.

    Args:
        parts: ``"train"`` and ``"val"``.
        validation: The share of ``train`` for validation; at least one image.
        seed: The seed of the split.

    Returns:
        For each split, images and the indices of those that belong to it, in ascending order.

    Raises:
        ValueError: If the share is not in (0, 1), or no image remains for training.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a share in (0, 1); found {validation}.")
    train, test = parts["train"], parts["val"]
    n = len(train)
    held_out = max(round(validation * n), 1)
    if held_out >= n:
        raise ValueError(
            f"validation = {validation} takes {held_out} of the {n} training images: none is left."
        )
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    return {
        "train": (train, order[held_out:].sort().values),
        "validation": (train, order[:held_out].sort().values),
        "test": (test, torch.arange(len(test))),
    }


def dense_metrics(classes: int, depth_unit: str) -> dict[str, dict[str, Metric]]:
    """Creates the metrics of the papers' tables, by task and name."""
    # Labels are checked when they are read.
    options: dict[str, Any] = {"ignore_index": VOID, "validate_args": False}
    module = f"{__package__}._metrics"
    depth = partial(lazy, module, "DepthError")
    degrees = partial(Metric, higher_is_better=False, unit="°")
    within = {
        f"within {angle:g}": Metric(
            lazy(module, "AnglesWithin", angle), higher_is_better=True, scale=100.0, unit="%"
        )
        for angle in (11.25, 22.5, 30.0)
    }
    return {
        SEGMENTATION: {
            "mIoU": percentage("MulticlassJaccardIndex", classes, **options),
            "pixel accuracy": percentage("MulticlassAccuracy", classes, average="micro", **options),
        },
        DEPTH: {
            "absolute error": Metric(depth(), higher_is_better=False, unit=depth_unit),
            "relative error": Metric(depth(relative=True), higher_is_better=False),
        },
        NORMALS: {
            "mean angle": degrees(lazy(module, "MeanAngle")),
            "median angle": degrees(lazy(module, "MedianAngle")),
            **within,
        },
    }
