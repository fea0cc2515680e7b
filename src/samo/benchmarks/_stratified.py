"""Stratified splits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._benchmark import Split

# The rest is the test split.
_SHARES = (0.6, 0.2)


def stratified_split(
    labels: Tensor, classes: int, seed: int, groups: int = 1
) -> list[dict[Split, Tensor]]:
    """Splits examples 60/20/20 % into train, validation and test, each class in these proportions.

    Args:
        labels: The class of each example, shape ``[N]``.
        classes: The number of classes.
        seed: The seed of the split.
        groups: The number of disjoint groups to make first (for instance one per domain).

    Returns:
        For each group, the indices of the examples of each split. No index occurs twice.
    """
    random = np.random.default_rng(seed)
    parts: list[dict[Split, list[np.ndarray]]] = [
        {"train": [], "validation": [], "test": []} for _ in range(groups)
    ]
    for label in range(classes):
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        for part, group in zip(parts, np.array_split(members, groups), strict=True):
            ends = np.cumsum([round(share * len(group)) for share in _SHARES])
            for chunks, chunk in zip(part.values(), np.split(group, ends), strict=True):
                chunks.append(chunk)
    return [
        {split: torch.from_numpy(np.concatenate(chunks)) for split, chunks in part.items()}
        for part in parts
    ]
