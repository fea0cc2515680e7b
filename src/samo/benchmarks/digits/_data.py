"""The 1,797 digits of 8 × 8 pixels from scikit-learn."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .._benchmark import Split
from .._stratified import stratified_split

CLASSES = 10
SIDE = 8


class Digits8x8(NamedTuple):
    """Images with values in [0, 1], shape ``[N, H, W]``, and their labels, shape ``[N]``."""

    pixels: Tensor
    labels: Tensor


@cache
def base_digits() -> Digits8x8:
    """Loads the digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return Digits8x8(
        torch.from_numpy(data.images).to(torch.float32) / 16, torch.from_numpy(data.target).long()
    )


def split_digits(seed: int, groups: int = 1) -> list[dict[Split, Tensor]]:
    """Splits the digits as `stratified_split` does."""
    return stratified_split(base_digits().labels, CLASSES, seed, groups)
