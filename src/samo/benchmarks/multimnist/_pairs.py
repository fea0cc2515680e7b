"""Random pairs of pictures, without a picture in two splits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._benchmark import Split
from .._overlaid import overlaid

CANVAS = 36

Base = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Single pictures, shape ``[N, 28, 28]``, and their labels, shape ``[N]``."""

# Each split has its own random stream: the number of training pairs does not change the test set.
_STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
_HOLD_OUT = 3


def held_out(base: Base, share: float, seed: int) -> dict[Split, Base]:
    """Splits the pictures of the training file, of which a share becomes the validation split."""
    images, labels = base
    order = np.random.default_rng([seed, _HOLD_OUT]).permutation(len(images))
    n = round(share * len(images))
    rows: dict[Split, NDArray[np.intp]] = {"train": order[n:], "validation": order[:n]}
    return {split: (images[chosen], labels[chosen]) for split, chosen in rows.items()}


def paired(left: Base, right: Base, n: int, seed: int, split: Split) -> tuple[Tensor, ...]:
    """Pairs pictures at random and overlays them.

    In each corner, every picture is used equally often, up to one. The first n pairs of a larger
    number are the same.

    Returns:
        Images, uint8, shape ``[n, 1, 36, 36]``, and the labels of both corners, shape ``[n]``.
    """
    pixels, labels = [], []
    for corner, (images, of) in enumerate((left, right)):
        random = np.random.default_rng([seed, _STREAMS[split], corner])
        rounds = [random.permutation(len(images)) for _ in range(-(-n // len(images)))]
        rows = np.concatenate(rounds)[:n]
        pixels.append(torch.from_numpy(images[rows]))
        labels.append(torch.from_numpy(of[rows].astype(np.int64)))
    return (overlaid(pixels[0], pixels[1], CANVAS), *labels)
