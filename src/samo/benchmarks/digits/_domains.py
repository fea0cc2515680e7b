"""The digits in four domains: a small version of the multi-input problem of Office-Home."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn

from .._batches import TaskBatches, TensorBatches
from .._benchmark import Defaults, Split
from .._checks import check_at_least
from .._domains import Domains
from .._metrics import accuracy
from ._data import CLASSES, SIDE, base_digits, split_digits
from ._model import perceptron


@final
class DigitsDomains(Domains):
    """Digits in four domains, each with its own images, loader and head.

    The domains are plain, rotated by a quarter turn, inverted, and noisy. Each has its own base
    digits (about 450), split into train, validation and test. A batch maps each domain to images
    and labels. A task is a domain, as in Office-Home.

    Args:
        width: The width of the two hidden layers that the domains share.
        noise: The standard deviation of the noise in the noisy domain; pixels are in [0, 1].
        seed: The seed of the data. It is not the seed of a run: all runs see the same data.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> benchmark = DigitsDomains()
        >>> batch = next(iter(benchmark.batches("train", benchmark.tasks, batch_size=32)))
        >>> x, labels = batch["inverted"]
        >>> x.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=40, batch_size=32, lr=3e-3, rho=0.1, rho_grid=(0.05, 0.1, 0.2, 0.5)
    )
    tasks = ("plain", "rotated", "inverted", "noisy")

    def __init__(self, *, width: int = 256, noise: float = 0.4, seed: int = 0) -> None:
        check_at_least(1, width=width)
        check_at_least(0, noise=noise)
        self.width = width
        self.noise = noise
        self.seed = seed
        self.metrics = {task: {"accuracy": accuracy(CLASSES)} for task in self.tasks}
        generator = Generator().manual_seed(seed)
        parts = split_digits(seed, groups=len(self.tasks))
        self._data: dict[str, dict[Split, tuple[Tensor, Tensor]]] = {
            task: {split: self._images(task, chosen, generator) for split, chosen in part.items()}
            for task, part in zip(self.tasks, parts, strict=True)
        }

    def model(self) -> nn.Module:
        return perceptron(SIDE**2, self.width, self.tasks)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> TaskBatches:
        return TaskBatches(
            {task: TensorBatches(self._data[task][split], batch_size, generator) for task in tasks}
        )

    def normalized(self, x: Tensor) -> Tensor:
        return x

    def _images(self, task: str, chosen: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        base = base_digits()
        x = base.pixels[chosen].unsqueeze(1)
        if task == "rotated":
            x = x.rot90(dims=(2, 3))
        elif task == "inverted":
            x = 1 - x
        elif task == "noisy":
            x = (x + self.noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)
        return x, base.labels[chosen]
