"""Two pictures in one image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._benchmark import Split
from ._idx import SIDE

CANVAS = 36

Base = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Single pictures, shape ``[N, 28, 28]``, and their labels, shape ``[N]``."""

# Each draws from a generator of its own: the number of training pairs does not change the test set.
_STREAMS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
_DIVISION = 3


def divided(base: Base, share: float, seed: int) -> dict[Split, Base]:
    """Divides the pictures of the training file into those for training and for validation.

    Args:
        base: The pictures.
        share: The share that is for validation.
        seed: The seed of the data.

    Returns:
        Two parts that have no picture in common.
    """
    images, labels = base
    order = np.random.default_rng([seed, _DIVISION]).permutation(len(images))
    n = round(share * len(images))
    rows: dict[Split, NDArray[np.intp]] = {"train": order[n:], "validation": order[:n]}
    return {split: (images[chosen], labels[chosen]) for split, chosen in rows.items()}


def paired(left: Base, right: Base, n: int, seed: int, split: Split) -> tuple[Tensor, ...]:
    """Pairs pictures and lays them over each other.

    In each corner every picture is used equally often, give or take one. Fewer pairs are the first
    of more pairs.

    Args:
        left: What is laid top left.
        right: What is laid bottom right.
        n: The number of pairs.
        seed: The seed of the data.
        split: What the pairs are for.

    Returns:
        Images, uint8, shape ``[n, 1, 36, 36]``, and the labels of both corners, shape ``[n]``.
    """
    pixels, labels = [], []
    for corner, (images, of) in enumerate((left, right)):
        random = np.random.default_rng([seed, _STREAMS[split], corner])
        rounds = [random.permutation(len(images)) for _ in range(-(-n // len(images)))]
        rows = np.concatenate(rounds)[:n]
        pixels.append(images[rows])
        labels.append(torch.from_numpy(of[rows].astype(np.int64)))
    return (torch.from_numpy(overlaid(*pixels)), *labels)


def overlaid(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lays pictures top left and bottom right; where both have ink, the stronger counts.

    Args:
        left: Shape ``[N, 28, 28]``.
        right: The same.

    Returns:
        Shape ``[N, 1, 36, 36]``.
    """
    canvas = np.zeros((len(left), 1, CANVAS, CANVAS), dtype=np.uint8)
    canvas[:, 0, :SIDE, :SIDE] = left
    corner = canvas[:, 0, -SIDE:, -SIDE:]
    np.maximum(corner, right, out=corner)
    return canvas
