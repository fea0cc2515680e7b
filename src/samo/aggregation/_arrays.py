"""Small arrays on the CPU, on which the solvers of this package work.

On arrays of a few numbers an operation takes NumPy a fifth of the time that it takes torch, but
NumPy is no dependency of the core. So the solvers are written in what the two have in common, and
use NumPy where it is installed. Both work in float64.
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
    """NumPy, or torch where NumPy is not installed."""
    try:
        import numpy
    except ImportError:
        return torch
    return numpy


def to_array(tensor: Tensor) -> Array:
    """A tensor as an array in float64. The memory may be the tensor's own: do not write to it.

    Args:
        tensor: A tensor of any floating dtype, on any device.

    Returns:
        The array.
    """
    wide = tensor.detach().to("cpu", torch.float64)
    return wide if library() is torch else wide.numpy()


def to_tensor(array: Array, like: Tensor) -> Tensor:
    """An array as a tensor.

    Args:
        array: The array.
        like: A tensor of the dtype and on the device that are wanted.

    Returns:
        The tensor.
    """
    return torch.as_tensor(array).to(like)


def diagonal_of(matrix: Array) -> Array:
    """The diagonals of matrices as a view, to be read and written.

    Args:
        matrix: The matrices, ``[.., K, K]``.

    Returns:
        The view, ``[.., K]``.
    """
    if isinstance(matrix, Tensor):
        return matrix.diagonal(dim1=-2, dim2=-1)
    return library().einsum("...ii->...i", matrix)
