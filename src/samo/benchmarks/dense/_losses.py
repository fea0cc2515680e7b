"""The losses of dense prediction, as the MTAN authors compute them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._layout import VOID


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean cross-entropy of the pixels that are not void.

    Args:
        logits: Shape ``[N, C, H, W]``.
        labels: Shape ``[N, H, W]``; −1 for void.

    Returns:
        The loss.
    """
    return F.cross_entropy(logits, labels, ignore_index=VOID)


def depth_loss(predicted: Tensor, depth: Tensor) -> Tensor:
    """Computes the mean absolute error of the pixels with a measurement.

    Args:
        predicted: Shape ``[N, 1, H, W]``.
        depth: The same; 0 where there is no measurement.

    Returns:
        The loss; 0 without any measurement.
    """
    measured = depth != 0
    return ((predicted - depth).abs() * measured).sum() / measured.sum().clamp(min=1)


def normals_loss(predicted: Tensor, normals: Tensor) -> Tensor:
    """Computes one minus the mean dot product of the pixels with a measurement.

    A pixel has no measurement if all three components are 0. The MTAN code tests whether their
    *sum* is 0, which also holds for a few measured normals.

    Args:
        predicted: Unit vectors, shape ``[N, 3, H, W]``.
        normals: The same; three zeros where there is no measurement. (Augmentation interpolates
            between neighbours, which shortens them at edges; as in the MTAN code, they stay short.)

    Returns:
        The loss; 1 without any measurement.
    """
    measured = normals.ne(0).any(dim=1)
    cosines = (predicted * normals).sum(dim=1)
    return 1 - (cosines * measured).sum() / measured.sum().clamp(min=1)
