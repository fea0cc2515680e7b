"""Two digits in one image: the two-task problem of Multi-MNIST, small enough for one core."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Generator, Tensor, nn

from .._benchmark import Defaults, Split
from .._checks import check_at_least
from .._overlaid import OverlaidPairs, overlaid
from ._data import SIDE, base_digits, split_digits
from ._model import perceptron


@final
class Digits(OverlaidPairs):
    """Classification of two overlapping digits in one image, top left and bottom right.

    Constructed like Multi-MNIST, from scikit-learn's 1,797 digits of 8 × 8 pixels. The digits are
    split into train, validation and test *before* they are paired, so no digit of a test image
    occurs in training. One digit of a pair is placed top left on the canvas, the other bottom
    right; overlapping pixels have the maximum. Plain training reaches about 100 % on the
    training pairs and about ten points less on others. A batch is a tuple of images, left labels
    and right labels.

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

    def __init__(
        self, *, pairs: int = 1500, canvas: int = 10, width: int = 256, seed: int = 0
    ) -> None:
        check_at_least(1, pairs=pairs, width=width)
        if not SIDE <= canvas <= 2 * SIDE:
            raise ValueError(f"canvas must be in {SIDE}..{2 * SIDE} pixels; found {canvas}.")
        self.pairs = pairs
        self.canvas = canvas
        self.width = width
        self.seed = seed
        generator = Generator().manual_seed(seed)
        sizes: dict[Split, int] = {"train": pairs, "validation": 1000, "test": 1000}
        super().__init__(
            {
                split: _paired(chosen, sizes[split], canvas, generator)
                for split, chosen in split_digits(seed)[0].items()
            }
        )

    def model(self) -> nn.Module:
        return perceptron(self.canvas**2, self.width, self.tasks)


def _paired(
    chosen: Tensor, n: int, canvas: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws n pairs of the chosen base digits: images, left labels and right labels."""
    base = base_digits()
    left, right = (chosen[torch.randint(len(chosen), (n,), generator=generator)] for _ in range(2))
    x = overlaid(base.pixels[left], base.pixels[right], canvas)
    return x, base.labels[left], base.labels[right]
