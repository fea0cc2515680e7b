"""Storage for vectors and matrices that is reused from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._vector import GlobalSum, Layout, Matrix, Vector


class Workspace:
    """Layouts, vectors and matrices by purpose, reused as long as they fit.

    Creating them in each step is slow: the operating system clears new memory, and a layout
    inspects each tensor. No tensor that a user may hold, in particular no ``.grad``, may use this
    storage.

    Args:
        global_sum: Sums numbers over the ranks; None if the parameters are not sharded.
        gradient_dtype: The dtype of matrices; None for the parameters' dtype.

    Attributes:
        gradient_dtype: The dtype of matrices.
    """

    def __init__(
        self, global_sum: GlobalSum | None = None, gradient_dtype: torch.dtype | None = None
    ) -> None:
        self._global_sum = global_sum
        self.gradient_dtype = gradient_dtype
        self._layouts: dict[str, Layout] = {}
        self._columns: tuple[Layout, Layout] | None = None
        self._vectors: dict[str, Vector] = {}
        self._matrices: dict[str, Matrix] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the storage, which a copy need not have: its tensors are views of others."""
        return {
            **vars(self),
            "_layouts": {},
            "_columns": None,
            "_vectors": {},
            "_matrices": {},
        }

    def layout(self, use: str, tensors: Sequence[Tensor]) -> Layout:
        """Returns the layout of some tensors."""
        layout = self._layouts.get(use)
        if layout is None or not layout.fits(tensors):
            layout = self._layouts[use] = Layout(tensors, self._global_sum)
        return layout

    def columns(self, layout: Layout, ranks: int, global_sum: GlobalSum) -> Layout:
        """Returns the layout of one rank's columns of a matrix."""
        if self._columns is None or self._columns[0] is not layout:
            self._columns = (layout, layout.divided(ranks, global_sum))
        return self._columns[1]

    def vector(self, use: str, layout: Layout) -> Vector:
        """Returns a vector with arbitrary values."""
        vector = self._vectors.get(use)
        if vector is None or vector.layout is not layout:
            self._vectors.pop(use, None)  # frees the old before allocating the new
            vector = self._vectors[use] = layout.empty()
        return vector

    def take(self, use: str, layout: Layout) -> Vector:
        """Returns a vector that belongs to the caller until it is passed to `give`."""
        vector = self._vectors.pop(use, None)
        return layout.empty() if vector is None or vector.layout is not layout else vector

    def give(self, use: str, vector: Vector) -> None:
        """Makes a vector available again."""
        self._vectors[use] = vector

    def matrix(self, use: str, layout: Layout, rows: int) -> Matrix:
        """Returns a matrix with arbitrary values."""
        matrix = self._matrices.get(use)
        if matrix is None or matrix.layout is not layout or len(matrix) != rows:
            self._matrices.pop(use, None)
            matrix = self._matrices[use] = layout.matrix(rows, self.gradient_dtype)
        return matrix
