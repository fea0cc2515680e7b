"""Office-Home: the same 65 classes of objects in four domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn

from .._batches import TaskBatches
from .._benchmark import Defaults, Split
from .._checks import check_at_least
from .._domains import Domains
from .._errors import DataError
from .._folders import cache_folder, data_folder
from .._images import ImageBatches, decoded
from .._metrics import accuracy
from .._stratified import stratified_split
from ..networks import OfficeHomeResNet18
from ._folders import DOMAINS, LAYOUT, read_domains

SIDE = 224
# The side of the decoded images that a square of SIDE is cropped from.
_LARGER = 256

# The mean and the standard deviation of ImageNet's red, green and blue, in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@final
class OfficeHome(Domains):
    """Classification of 65 objects in four domains, each with its own images, loader and head.

    The set-up of LibMTL and of SAMO's experiments (arXiv 2507.07883, §6): 60/20/20 % of each domain
    for training, validation and test; images resized to 224 × 224 pixels, whatever their shape, and
    normalised as for ImageNet; no augmentation; ResNet-18 with ImageNet's weights. In training, the
    loaders of smaller domains restart until the largest is exhausted. One difference: the split is
    stratified by class and determined by `seed`. A batch maps domains to images (uint8) and labels.

    Args:
        data: The directory with ``Art``, ``Clipart``, ``Product`` and ``Real World``, each with a
            folder of images for each class.
        weights: A file with torchvision's ImageNet weights of ResNet-18, for instance
            ``resnet18-f37072fd.pth``. Without it, training from scratch is far less accurate.
        augment: Whether training images are cropped at random from 256 × 256 pixels and mirrored at
            random, which the published experiments do not do.
        cache: The directory of the resized images (2.4 GB; 3.1 GB to crop from): they are decoded
            once, which takes minutes, and memory-mapped from then on. By default ``samo-cache`` in
            `data`.
        width: The channels of the network's first convolution.
        seed: The seed of the split. It is not the seed of a run: all runs see the same data.

    Raises:
        DataError: If a file or directory is missing or invalid, or the cache cannot be written.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=50,
        batch_size=64,
        lr=1e-4,
        rho=1e-3,
        rho_grid=(1e-4, 1e-3, 1e-2),
        weight_decay=1e-5,
        schedule="step",
    )
    tasks = DOMAINS

    def __init__(
        self,
        *,
        data: str | Path,
        weights: str | Path | None = None,
        augment: bool = False,
        cache: str | Path | None = None,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        check_at_least(1, width=width)
        check_at_least(0, seed=seed)
        if weights is not None and not Path(weights).is_file():
            raise DataError(f"weights: there is no file {weights}.")
        self.data = data
        self.weights = weights
        self.augment = augment
        self.cache = cache
        self.width = width
        self.seed = seed
        folder = data_folder(data, LAYOUT)
        self._domains = read_domains(folder)
        n_classes = len(self._domains[DOMAINS[0]].classes)
        self._rows = {
            task: stratified_split(domain.labels, n_classes, seed)[0]
            for task, domain in self._domains.items()
        }
        for task, rows in self._rows.items():
            for split, chosen in rows.items():
                if not len(chosen):
                    raise DataError(f"{folder}: {task} has too few images: none for {split}.")
        self.metrics = {task: {"accuracy": accuracy(n_classes)} for task in self.tasks}
        self._classes = n_classes
        self._pixels = {
            task: decoded(
                domain.files,
                _LARGER if augment else SIDE,
                cache_folder(folder, cache),
                f"office-home-{task.replace(' ', '-')}",
            )
            for task, domain in self._domains.items()
        }

    def model(self) -> nn.Module:
        return OfficeHomeResNet18(
            self.tasks, classes=self._classes, weights=self.weights, width=self.width
        )

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> TaskBatches:
        loaders = {
            task: ImageBatches(
                self._pixels[task],
                self._domains[task].labels,
                self._rows[task][split],
                batch_size,
                generator,
                crop=SIDE if self.augment else None,
            )
            for task in tasks
        }
        return TaskBatches(loaders, again=generator is not None)

    def normalized(self, x: Tensor) -> Tensor:
        """Scales pixels as for ImageNet's networks: (x / 255 − mean) / std."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (_MEAN, _STD))
        return (x / 255 - mean) / std
