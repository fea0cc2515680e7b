"""CelebA: 40 attributes of a face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._benchmark import Benchmark, Defaults, Split
from .._checks import check_at_least
from .._folders import cache_folder, data_folder
from .._images import ImageBatches, decoded, unit_range
from .._metrics import percentage
from ..networks import CelebACNN
from ._lists import IMAGES, LAYOUT, read_lists

_SIDE = 64


@final
class CelebA(Benchmark):
    """The 40 binary attributes of CelebA's faces, one task each.

    The set-up of FAMO (arXiv 2306.03792), FairGrad and SAMO (arXiv 2507.07883): the official
    partition of the 202,599 aligned images, resized to 64 × 64 pixels (which distorts them
    slightly), values in [0, 1], no augmentation; a nine-layer CNN; binary cross-entropy; F1 per
    task. F1 is 0 if neither predictions nor labels have a positive.

    A batch is a tuple of images (uint8) and labels, 0 or 1, of all attributes.

    Args:
        data: The directory with ``Img/img_align_celeba/*.jpg``, ``Anno/list_attr_celeba.txt`` and
            ``Eval/list_eval_partition.txt``, as published. The tasks are the attributes in the
            second file.
        cache: The directory of the resized images (2.5 GB): they are decoded once, which takes
            minutes, and memory-mapped from then on. By default ``samo-cache`` in `data`.
        width: The channels of the network's first convolution.

    Raises:
        DataError: If a file is missing or invalid, or the cache cannot be written.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=15, batch_size=256, lr=3e-4, rho=1e-3, rho_grid=(1e-4, 1e-3, 1e-2)
    )

    def __init__(
        self, *, data: str | Path, cache: str | Path | None = None, width: int = 64
    ) -> None:
        check_at_least(1, width=width)
        self.data = data
        self.cache = cache
        self.width = width
        folder = data_folder(data, LAYOUT)
        self._lists = read_lists(folder)
        self.tasks = self._lists.attributes
        self._column = {task: column for column, task in enumerate(self.tasks)}
        kinds = {"F1": "BinaryF1Score", "accuracy": "BinaryAccuracy"}
        metrics = {name: percentage(kind, transform=_positive) for name, kind in kinds.items()}
        self.metrics = dict.fromkeys(self.tasks, metrics)
        self._pixels = decoded(
            [folder / IMAGES / name for name in self._lists.names],
            _SIDE,
            cache_folder(folder, cache),
            "celeba",
        )

    def model(self) -> nn.Module:
        return CelebACNN(self.tasks, width=self.width)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> ImageBatches:
        lists = self._lists
        return ImageBatches(self._pixels, lists.labels, lists.rows[split], batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        x, labels = batch
        logits = model(unit_range(x), tasks)
        return {task: (logits[task], labels[:, self._column[task]]) for task in tasks}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype))


def _positive(logits: Tensor) -> Tensor:
    return (logits > 0).long()
