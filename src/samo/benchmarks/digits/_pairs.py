"""Two digits in one image: the two-task problem of Multi-MNIST, small enough for one core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._batches import TensorBatches
from .._benchmark import Benchmark, Defaults, Split
from .._classification import accuracy
from ._data import CLASSES, SIDE, base_digits, divide
from ._model import perceptron


@final
class Digits(Benchmark):
    """Two overlapping digits in one image: which is top left, and which is bottom right?

    Made as Multi-MNIST is, from scikit-learn's 1,797 digits of 8 × 8 pixels. The base digits are
    divided into train, validation and test *before* they are paired, so that no digit of a test
    image was ever seen in training. One digit of a pair is laid top left on the canvas, the other
    bottom right; where both have ink the darker counts. Plain training reaches about 100 % on the
    training pairs and about ten points less on others.

    Args:
        pairs: The number of training pairs. Validation and test have 1,000 each.
        canvas: The side of the image in pixels, 8 to 16: the smaller, the larger the overlap.
        width: The width of the two hidden layers that the tasks share.
        seed: The seed of the data. It is not the seed of a run: all runs see the same data.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> benchmark = Digits(pairs=64)
        >>> x, left, right = next(iter(benchmark.batches("train", benchmark.tasks, batch_size=32)))
        >>> x.shape, left.shape, right.shape
        (torch.Size([32, 1, 10, 10]), torch.Size([32]), torch.Size([32]))
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=40, batch_size=64, lr=3e-3, rho=0.1, rho_grid=(0.05, 0.1, 0.2, 0.5)
    )
    tasks = ("left", "right")

    def __init__(
        self, *, pairs: int = 1500, canvas: int = 10, width: int = 256, seed: int = 0
    ) -> None:
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1; found {pairs}.")
        if not SIDE <= canvas <= 2 * SIDE:
            raise ValueError(f"canvas must be in {SIDE}..{2 * SIDE} pixels; found {canvas}.")
        if width < 1:
            raise ValueError(f"width must be at least 1; found {width}.")
        self.pairs = pairs
        self.canvas = canvas
        self.width = width
        self.seed = seed
        self.metrics = {task: {"accuracy": accuracy(CLASSES)} for task in self.tasks}
        generator = Generator().manual_seed(seed)
        sizes: dict[Split, int] = {"train": pairs, "validation": 1000, "test": 1000}
        self._data = {
            split: _paired(chosen, sizes[split], canvas, generator)
            for split, chosen in divide(seed)[0].items()
        }

    def model(self) -> nn.Module:
        """Makes a multilayer perceptron with two heads.

        Returns:
            The model.
        """
        return perceptron(self.canvas**2, self.width, self.tasks)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> TensorBatches:
        """Gives triples of images, left labels and right labels.

        Args:
            split: Which part of the data.
            tasks: Plays no part: both tasks have the same images.
            batch_size: The number of pairs.
            generator: Shuffles; None keeps the order.

        Returns:
            The batches.
        """
        return TensorBatches(self._data[split], batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the trunk and the heads that are asked for.

        Args:
            model: The model.
            batch: Images and labels.
            tasks: ``"left"``, ``"right"`` or both.

        Returns:
            Logits and labels by task.
        """
        x, *labels = batch
        targets = dict(zip(self.tasks, labels, strict=True))
        return {task: (logits, targets[task]) for task, logits in model(x, tasks).items()}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the mean cross-entropy.

        Args:
            task: The task.
            prediction: Logits.
            target: Labels.

        Returns:
            The loss.
        """
        return F.cross_entropy(prediction, target)


def _paired(
    chosen: Tensor, n: int, canvas: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws n pairs from the chosen base digits: images, left labels and right labels."""
    base = base_digits()
    left, right = (chosen[torch.randint(len(chosen), (n,), generator=generator)] for _ in range(2))
    x = overlaid(base.pixels[left], base.pixels[right], canvas)
    return x, base.labels[left], base.labels[right]


def overlaid(left: Tensor, right: Tensor, canvas: int) -> Tensor:
    """Lays images of shape ``[N, 8, 8]`` top left and bottom right: ``[N, 1, canvas, canvas]``."""
    layers = left.new_zeros(2, len(left), 1, canvas, canvas)
    layers[0, :, 0, :SIDE, :SIDE] = left
    layers[1, :, 0, -SIDE:, -SIDE:] = right
    return layers.amax(0)
