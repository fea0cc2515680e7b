"""Office-Home: the same 65 classes of objects in four domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._batches import TaskBatches
from .._benchmark import Benchmark, Defaults, Split
from .._classification import accuracy
from .._errors import DataError
from .._folders import data_folder
from .._images import ImageBatches, decoded
from ..networks import OfficeHomeResNet18
from ._folders import DOMAINS, LAYOUT, divide, read_domains

SIDE = 224
# What is decoded where a square of SIDE is cut out at random.
_LARGER = 256

# The mean and the standard deviation of ImageNet's red, green and blue, in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@final
class OfficeHome(Benchmark):
    """Which of 65 objects? In four domains, each with its own images, loader and head.

    The set-up of LibMTL and of SAMO's experiments (arXiv 2507.07883, §6): 60/20/20 % of each domain
    for training, validation and test; images resized to 224 × 224 pixels, whatever their shape, and
    normalised as ImageNet's; no augmentation; ResNet-18 with ImageNet's weights. In training,
    domains with fewer images begin again until the largest is through. What differs: the division
    is stratified by class, and made from `seed`.

    Args:
        data: The directory with ``Art``, ``Clipart``, ``Product`` and ``Real World``, in each a
            folder of images for each class.
        weights: A file with torchvision's ImageNet weights of ResNet-18, for instance
            ``resnet18-f37072fd.pth``. Without it, training is from scratch, which reaches far less.
        augment: Whether training images are cut out at random from 256 × 256 pixels and mirrored at
            random, which the published experiments do not do.
        cache: Where the resized images are kept (2.4 GB; 3.1 GB to be cut from): they are decoded
            once, which takes minutes, and memory-mapped from then on. By default ``samo-cache`` in
            `data`.
        width: The channels of the network's first convolution.
        seed: The seed of the division. It is not the seed of a run: all runs see the same data.

    Raises:
        DataError: If a file or directory is missing or not what it should be, or the cache cannot
            be written.
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
        for name, value, least in (("width", width, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}; found {value}.")
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
        self._rows = {task: divide(domain, seed) for task, domain in self._domains.items()}
        for task, rows in self._rows.items():
            for split, chosen in rows.items():
                if not len(chosen):
                    raise DataError(f"{folder}: {task} has too few images: none for {split}.")
        n_classes = len(self._domains[DOMAINS[0]].classes)
        self.metrics = {task: {"accuracy": accuracy(n_classes)} for task in self.tasks}
        self._classes = n_classes
        self._pixels = {
            task: decoded(
                domain.files,
                _LARGER if augment else SIDE,
                folder / "samo-cache" if cache is None else Path(cache).expanduser(),
                f"office-home-{task.replace(' ', '-')}",
            )
            for task, domain in self._domains.items()
        }

    def model(self) -> nn.Module:
        """Makes ResNet-18 with a head for each domain.

        Returns:
            The network.
        """
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
        """Gives mappings from domains to images (uint8) and labels.

        Args:
            split: Which part of the data.
            tasks: The domains that the batches are for.
            batch_size: The number of images a domain.
            generator: Shuffles, and augments if that is wanted; None keeps the order.

        Returns:
            The batches.
        """
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

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates, for each domain that is asked for, the network on its normalised images.

        Args:
            model: The model.
            batch: Images and labels by domain.
            tasks: The domains.

        Returns:
            Logits and labels by domain; a domain that has run out of images is left out.
        """
        present = {task: batch[task] for task in tasks if task in batch}
        return {
            task: (model(normalised(x), [task])[task], labels)
            for task, (x, labels) in present.items()
        }

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the mean cross-entropy.

        Args:
            task: The domain.
            prediction: Logits.
            target: Labels.

        Returns:
            The loss.
        """
        return F.cross_entropy(prediction, target)


def normalised(x: Tensor) -> Tensor:
    """Scales pixels as for ImageNet's networks: (x / 255 − mean) / std.

    Args:
        x: Pixels, uint8, shape ``[N, 3, H, W]``.

    Returns:
        The same as floating-point numbers.
    """
    mean, std = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (_MEAN, _STD))
    return (x / 255 - mean) / std
