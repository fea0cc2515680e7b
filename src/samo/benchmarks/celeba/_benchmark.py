"""CelebA: 40 attributes of a face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._benchmark import Benchmark, Defaults, Metric, Split
from .._folders import data_folder
from .._images import ImageBatches, decoded
from ..networks import CelebACNN
from ._lists import IMAGES, LAYOUT, read_lists

if TYPE_CHECKING:
    import torchmetrics

_SIDE = 64


@final
class CelebA(Benchmark):
    """The 40 binary attributes of CelebA's faces: a task each.

    The set-up of FAMO (arXiv 2306.03792), FairGrad and SAMO (arXiv 2507.07883): the official
    partition of the 202,599 aligned images, resized to 64 × 64 pixels (which distorts them a
    little), values in [0, 1], no augmentation; a nine-layer CNN; binary cross-entropy; F1 by task.
    F1 is 0 where neither predictions nor labels have a positive.

    Args:
        data: The directory with ``Img/img_align_celeba/*.jpg``, ``Anno/list_attr_celeba.txt`` and
            ``Eval/list_eval_partition.txt``, as published. The tasks are the attributes that the
            second names.
        cache: Where the resized images are kept (2.5 GB): they are decoded once, which takes
            minutes, and memory-mapped from then on. By default ``samo-cache`` in `data`.
        width: The channels of the network's first convolution.

    Raises:
        DataError: If a file is missing or not what it should be, or the cache cannot be written.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=15, batch_size=256, lr=3e-4, rho=1e-3, rho_grid=(1e-4, 1e-3, 1e-2)
    )

    def __init__(
        self, *, data: str | Path, cache: str | Path | None = None, width: int = 64
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1; found {width}.")
        self.data = data
        self.cache = cache
        self.width = width
        folder = data_folder(data, LAYOUT)
        self._lists = read_lists(folder)
        self.tasks = self._lists.attributes
        self._column = {task: column for column, task in enumerate(self.tasks)}
        self.metrics = {
            task: {"F1": _binary(_f1), "accuracy": _binary(_accuracy)} for task in self.tasks
        }
        self._pixels = decoded(
            [folder / IMAGES / name for name in self._lists.names],
            _SIDE,
            folder / "samo-cache" if cache is None else Path(cache).expanduser(),
            "celeba",
        )

    def model(self) -> nn.Module:
        """Makes the nine-layer CNN, with a linear head for each attribute.

        Returns:
            The network.
        """
        return CelebACNN(self.tasks, width=self.width)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> ImageBatches:
        """Gives pairs of images (uint8) and labels, 0 or 1, of all attributes.

        Args:
            split: Which part of the data.
            tasks: Plays no part: all tasks have the same images.
            batch_size: The number of images.
            generator: Shuffles; None keeps the order.

        Returns:
            The batches.
        """
        lists = self._lists
        return ImageBatches(self._pixels, lists.labels, lists.rows[split], batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the network on pixels that are scaled to [0, 1].

        Args:
            model: The model.
            batch: Images and labels.
            tasks: The attributes.

        Returns:
            Logits and labels by attribute, shape ``[N]``.
        """
        x, labels = batch
        logits = model(x / 255, tasks)
        return {task: (logits[task], labels[:, self._column[task]]) for task in tasks}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the mean binary cross-entropy.

        Args:
            task: The attribute.
            prediction: Logits.
            target: Labels, 0 or 1.

        Returns:
            The loss.
        """
        return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype))


def _binary(make: Callable[[], torchmetrics.Metric]) -> Metric:
    """A metric of whether logits are positive, in percent."""

    def of_positive_logits() -> torchmetrics.Metric:
        from torchmetrics.wrappers import LambdaInputTransformer

        # Torchmetrics would take a batch of logits that all lie in [0, 1] for probabilities.
        return LambdaInputTransformer(make(), transform_pred=lambda logits: (logits > 0).long())

    return Metric(of_positive_logits, higher_is_better=True, scale=100.0, unit="%")


def _f1() -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryF1Score

    return BinaryF1Score()


def _accuracy() -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryAccuracy

    return BinaryAccuracy()
