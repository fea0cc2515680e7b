"""Gramians of normalised gradients: what the solvers of this package work on."""

from __future__ import annotations

import torch
from torch import Tensor

from ._arrays import Array, diagonal_of, library, to_array


def normalized(gramian: Tensor) -> tuple[Array, Array]:
    r"""Divides a Gramian by the norms of its gradients, :math:`C_{ij} = G_{ij} / (d_i d_j)`.

    Args:
        gramian: The Gramian G, ``[K, K]``, of any floating dtype, on any device.

    Returns:
        The cosines C, ``[K, K]``, and the norms d, ``[K]``. A gradient of zero is orthogonal to the
        others, and has 1 on the diagonal too.

    Raises:
        ValueError: If a number is not finite.
    """
    xp, wide = library(), to_array(gramian)
    if not xp.isfinite(wide.sum()):
        raise ValueError(f"The Gramian must be finite; found {wide.tolist()}.")
    norms = xp.sqrt(wide.diagonal().clip(min=0))
    divisors = xp.where(norms > 0, norms, 1.0)
    cosines = wide / divisors / divisors[:, None]
    diagonal_of(cosines)[:] = 1.0
    return cosines, norms


def resolution(gramian: Tensor) -> float:
    """The size that rounding gives to eigenvalues of the cosines which should be zero.

    Args:
        gramian: The Gramian, in the dtype in which it was computed.

    Returns:
        A bound for all but the unluckiest Gramians.
    """
    return float(4 * len(gramian) ** 0.5 * torch.finfo(gramian.dtype).eps)
