"""Small float64 arrays on the CPU: Gramians in, weights out.

An operation on a few numbers takes a fifth of the time in NumPy, but the core does not depend on
NumPy. The solvers therefore use only functions that both libraries have, and run on NumPy if it is
installed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# A NumPy array or a tensor.
Array = Any


@cache
def library() -> Any:
    """Returns NumPy, or torch if NumPy is not installed."""
    try:
        import numpy
    except ImportError:
        return torch
    return numpy


def to_array(tensor: Tensor) -> Array:
    """Converts a tensor to a float64 array, which may share its memory: do not write to it."""
    wide = tensor.detach().to("cpu", torch.float64)
    return wide if library() is torch else wide.numpy()


def to_tensor(array: Array, like: Tensor) -> Tensor:
    """Converts an array to a tensor with the dtype and on the device of another tensor."""
    return torch.as_tensor(array).to(like)


def diagonal_of(matrix: Array) -> Array:
    """Returns a writable view, ``[.., K]``, of the diagonals of matrices, ``[.., K, K]``."""
    if isinstance(matrix, Tensor):
        return matrix.diagonal(dim1=-2, dim2=-1)
    return library().einsum("...ii->...i", matrix)


def normalized(gramian: Tensor) -> tuple[Array, Array]:
    r"""Divides a Gramian by the norms of the gradients, :math:`C_{ij} = G_{ij} / (d_i d_j)`.

    Args:
        gramian: The Gramian G, ``[K, K]``, of any floating dtype, on any device.

    Returns:
        The cosines C, ``[K, K]``, and the norms d, ``[K]``. A zero gradient counts as orthogonal to
        the others, with 1 on the diagonal.

    Raises:
        ValueError: If the Gramian is not finite.

    Example:
        >>> cosines, norms = normalized(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        >>> cosines.tolist(), norms.tolist()
        ([[1.0, 0.5], [0.5, 1.0]], [2.0, 1.0])
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
    """Bounds the rounding errors in the eigenvalues of the cosines.

    Args:
        gramian: The Gramian, in the dtype in which it was computed.

    Returns:
        The size below which an eigenvalue counts as zero; the bound holds for all but very rare
        Gramians.
    """
    return rounding(len(gramian), gramian.dtype)


def rounding(n: int, dtype: torch.dtype = torch.float64) -> float:
    """Bounds the rounding errors in the eigenvalues of n cosines in a dtype (see `resolution`)."""
    return float(4 * n**0.5 * torch.finfo(dtype).eps)


def semidefinite(cosines: Array, noise: float) -> Array:
    """Undoes negative eigenvalues of cosines that were rounded in a coarser dtype than float64.

    With them, the problems that the solvers minimise are not convex, and may have no solution.

    Args:
        cosines: The cosines C, ``[K, K]``.
        noise: Their `resolution`: larger eigenvalues are not due to rounding, and stay.

    Returns:
        C, with the smallest number on its diagonal that makes it positive semidefinite.
    """
    if noise <= rounding(len(cosines)):
        return cosines
    lowest = float(library().linalg.eigvalsh(cosines)[0])
    shifted = cosines * 1.0
    diagonal_of(shifted)[:] += min(max(-lowest, 0.0), noise)
    return shifted
