"""The losses of dense prediction, as the MTAN authors compute them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._layout import VOID


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of the pixels that are not void.

    Args:
        logits: Shape ``[N, C, H, W]``.
        labels: Shape ``[N, H, W]``; −1 for void.

    Returns:
        The loss.
    """
    return F.cross_entropy(logits, labels, ignore_index=VOID)


def depth_loss(predicted: Tensor, depth: Tensor) -> Tensor:
    """The mean absolute error of the pixels with a measurement.

    Args:
        predicted: Shape ``[N, 1, H, W]``.
        depth: The same; 0 where there is no measurement.

    Returns:
        The loss; 0 if there is no measurement at all.
    """
    measured = depth != 0
    return ((predicted - depth).abs() * measured).sum() / measured.sum().clamp(min=1)


def normals_loss(predicted: Tensor, normals: Tensor) -> Tensor:
    """One minus the mean dot product of the pixels with a measurement.

    The MTAN code has no measurement where the three components *add up* to 0, which is also the
    case for a few normals; here, only where all of them are 0.

    Args:
        predicted: Unit vectors, shape ``[N, 3, H, W]``.
        normals: The same; three zeros where there is no measurement. (Augmentation blends
            neighbours, and so makes them shorter at edges. They are left so, as in the MTAN code.)

    Returns:
        The loss; 1 if there is no measurement at all.
    """
    measured = normals.ne(0).any(dim=1)
    cosines = (predicted * normals).sum(dim=1)
    return 1 - (cosines * measured).sum() / measured.sum().clamp(min=1)
