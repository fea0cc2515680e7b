"""What the dense-prediction benchmarks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._benchmark import Benchmark, Metric, Split
from ..._names import unknown
from ..networks import SegNet, SegNetMTAN
from ._batches import DenseBatches
from ._layout import DEPTH, IMAGE, NORMALS, SEGMENTATION, VOID, Examples
from ._losses import depth_loss, normals_loss, segmentation_loss

if TYPE_CHECKING:
    import torchmetrics

NETWORKS = {"segnet-mtan": SegNetMTAN, "segnet": SegNet}
_UNIT = 2**5  # SegNet halves the size five times
_LOSSES = {SEGMENTATION: segmentation_loss, DEPTH: depth_loss, NORMALS: normals_loss}

Parts = Mapping[Split, tuple[Examples, Tensor]]
"""For each split, images, and the indices of those that belong to it."""


class DensePrediction(Benchmark):
    """Something to be said of each pixel of an image: its class, its depth, its surface's normal.

    A batch maps ``"image"`` (values in [0, 1]) and the tasks to tensors. Training images are
    scaled, cropped and mirrored at random. Normals are predicted as unit vectors.

    Args:
        parts: The images of each split.
        tasks: The tasks, of ``segmentation``, ``depth`` and ``normals``.
        classes: The names of the classes, in the order of the labels.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage.
        depth_unit: The unit of the depth.

    Raises:
        ValueError: If the network is unknown, the width too small, or the size of the images does
            not suit the network.
    """

    # SegNet-MTAN's masks of a task are reached by that task only, but published codes share them.
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
        if width < 1:
            raise ValueError(f"width must be at least 1; found {width}.")
        self.tasks = tasks
        self.class_names = tuple(classes)
        self.network = network
        self.width = width
        self.depth_unit = depth_unit
        self._parts = parts
        metrics = _metrics(len(classes), depth_unit)
        self.metrics = {task: metrics[task] for task in tasks}

    def model(self) -> nn.Module:
        """Makes the network, with a head for each task.

        Returns:
            The model.
        """
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
        """Gives mappings from ``"image"`` and the tasks to tensors.

        Args:
            split: Which part of the data.
            tasks: The tasks to load the targets of.
            batch_size: The number of images.
            generator: Shuffles and augments; None keeps order and images as they are.

        Returns:
            The batches.
        """
        return DenseBatches(*self._parts[split], tuple(tasks), batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the network for the tasks that are asked for.

        Args:
            model: The model.
            batch: Images and targets.
            tasks: The tasks; one that no pixel has a target for is left out.

        Returns:
            Predictions and targets by task.
        """
        predictions = model(batch[IMAGE], [task for task in tasks if task in batch])
        if NORMALS in predictions:
            predictions[NORMALS] = F.normalize(predictions[NORMALS], dim=1)
        return {task: (found, batch[task]) for task, found in predictions.items()}

    def picture(self, task: str, values: Tensor) -> np.ndarray:
        """Brings predictions or targets into the form of pictures.

        Args:
            task: The task.
            values: What `outputs` gave, one of the two.

        Returns:
            Labels or depth of shape ``[N, H, W]``, or normals of shape ``[N, H, W, 3]``.
        """
        if task == SEGMENTATION:
            values = values.argmax(dim=1) if values.ndim == 4 else values
        else:
            values = values[:, 0] if task == DEPTH else values.movedim(1, -1)
        return np.asarray(values.cpu())

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes cross-entropy, absolute error, or one minus the dot product.

        Args:
            task: The task.
            prediction: What was predicted for each pixel.
            target: What is true of it.

        Returns:
            The mean over the pixels that have a target.
        """
        return _LOSSES[task](prediction, target)


def split_parts(
    parts: Mapping[str, Examples], validation: float, seed: int
) -> dict[Split, tuple[Examples, Tensor]]:
    """Divides ``train`` into training and validation images; ``val`` is the test.

    Args:
        parts: ``"train"`` and ``"val"``.
        validation: The share of ``train`` for validation; at least one image.
        seed: Decides which.

    Returns:
        For each split, images and the indices of its own, in ascending order.

    Raises:
        ValueError: If the share is not in (0, 1), or no image is left for training.
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


def _metrics(classes: int, depth_unit: str) -> dict[str, dict[str, Metric]]:
    """The metrics of the papers' tables. Torchmetrics is imported when they are made, not here."""

    def miou() -> torchmetrics.Metric:
        from torchmetrics.classification import MulticlassJaccardIndex

        # Labels were checked when they were read.
        return MulticlassJaccardIndex(classes, ignore_index=VOID, validate_args=False)

    def accuracy() -> torchmetrics.Metric:
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(classes, average="micro", ignore_index=VOID, validate_args=False)

    def depth_error(*, relative: bool) -> torchmetrics.Metric:
        from ._metrics import DepthError

        return DepthError(relative=relative)

    def mean_angle() -> torchmetrics.Metric:
        from ._metrics import MeanAngle

        return MeanAngle()

    def median_angle() -> torchmetrics.Metric:
        from ._metrics import MedianAngle

        return MedianAngle()

    def within(degrees: float) -> Metric:
        def make() -> torchmetrics.Metric:
            from ._metrics import AnglesWithin

            return AnglesWithin(degrees)

        return Metric(make, higher_is_better=True, scale=100.0, unit="%")

    return {
        SEGMENTATION: {
            "mIoU": Metric(miou, higher_is_better=True, scale=100.0, unit="%"),
            "pixel accuracy": Metric(accuracy, higher_is_better=True, scale=100.0, unit="%"),
        },
        DEPTH: {
            "absolute error": Metric(
                lambda: depth_error(relative=False), higher_is_better=False, unit=depth_unit
            ),
            "relative error": Metric(lambda: depth_error(relative=True), higher_is_better=False),
        },
        NORMALS: {
            "mean angle": Metric(mean_angle, higher_is_better=False, unit="°"),
            "median angle": Metric(median_angle, higher_is_better=False, unit="°"),
            "within 11.25": within(11.25),
            "within 22.5": within(22.5),
            "within 30": within(30.0),
        },
    }
