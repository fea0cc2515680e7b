"""The same digits in four domains: the multi-input problem of Office-Home, in small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._batches import TaskBatches, TensorBatches
from .._benchmark import Benchmark, Defaults, Split
from .._classification import accuracy
from ._data import CLASSES, SIDE, base_digits, divide
from ._model import perceptron


@final
class DigitsDomains(Benchmark):
    """Digits in four domains, each with its own images, loader and head.

    The domains are plain, rotated by a quarter turn, inverted, and noisy. Each has base digits of
    its own (about 450), divided into train, validation and test. A batch maps each domain to images
    and labels. A task is a domain, as in Office-Home.

    Args:
        width: The width of the two hidden layers that the domains share.
        noise: The standard deviation of the noise in the noisy domain; pixels lie in [0, 1].
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
        if width < 1:
            raise ValueError(f"width must be at least 1; found {width}.")
        if noise < 0:
            raise ValueError(f"noise must be at least 0; found {noise}.")
        self.width = width
        self.noise = noise
        self.seed = seed
        self.metrics = {task: {"accuracy": accuracy(CLASSES)} for task in self.tasks}
        generator = Generator().manual_seed(seed)
        parts = divide(seed, groups=len(self.tasks))
        self._data: dict[str, dict[Split, tuple[Tensor, Tensor]]] = {
            task: {split: self._images(task, chosen, generator) for split, chosen in part.items()}
            for task, part in zip(self.tasks, parts, strict=True)
        }

    def model(self) -> nn.Module:
        """Makes a multilayer perceptron with a head for each domain.

        Returns:
            The model.
        """
        return perceptron(SIDE**2, self.width, self.tasks)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> TaskBatches:
        """Gives mappings from domains to images and labels.

        Args:
            split: Which part of the data.
            tasks: The domains that the batches are for.
            batch_size: The number of images a domain.
            generator: Shuffles; None keeps the order.

        Returns:
            The batches.
        """
        return TaskBatches(
            {task: TensorBatches(self._data[task][split], batch_size, generator) for task in tasks}
        )

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates, for each domain that is asked for, the trunk on its images and its head.

        Args:
            model: The model.
            batch: Images and labels by domain.
            tasks: The domains.

        Returns:
            Logits and labels by domain; a domain that has run out of images is left out.
        """
        present = {task: batch[task] for task in tasks if task in batch}
        return {task: (model(x, [task])[task], labels) for task, (x, labels) in present.items()}

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
