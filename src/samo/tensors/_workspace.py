"""What one step leaves for the next: layouts, and storage that is used again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samo.distributed._ranks import Ranks
from samo.tensors._vector import Layout, Matrix, Spread, Vector


class Workspace:
    """Layouts, vectors and matrices by what they are for, kept as long as they fit.

    To make them anew at each step costs time: the system clears the memory that it hands out, and
    a layout looks at each tensor. Nothing that a user gets to hold may lie in this storage, above
    all no ``.grad``.

    Args:
        spread: Sums numbers over the ranks that hold parts of the tensors.
        gradient_dtype: What matrices are stored in; None for the parameters' dtype.
    """

    def __init__(
        self, spread: Spread | None = None, gradient_dtype: torch.dtype | None = None
    ) -> None:
        self._spread = spread
        self._gradient_dtype = gradient_dtype
        self._layouts: dict[str, Layout] = {}
        self._columns: tuple[Layout, Layout] | None = None
        self._vectors: dict[str, Vector] = {}
        self._matrices: dict[str, Matrix] = {}

    def layout(self, use: str, tensors: Sequence[Tensor]) -> Layout:
        """The layout of some tensors."""
        layout = self._layouts.get(use)
        if layout is None or not layout.fits(tensors):
            layout = self._layouts[use] = Layout(tensors, self._spread)
        return layout

    def columns(self, layout: Layout, ranks: Ranks) -> Layout:
        """The layout of a rank's columns of a matrix."""
        if self._columns is None or self._columns[0] is not layout:
            self._columns = (layout, layout.divided(ranks.size, ranks.total))
        return self._columns[1]

    def vector(self, use: str, layout: Layout) -> Vector:
        """A vector with whatever values it was left with."""
        vector = self._vectors.get(use)
        if vector is None or vector.layout is not layout:
            self._vectors.pop(use, None)  # so that the old and the new are not there at once
            vector = self._vectors[use] = layout.empty()
        return vector

    def take(self, use: str, layout: Layout) -> Vector:
        """A vector that is the caller's until it gives it back: one given before, or a new one."""
        vector = self._vectors.pop(use, None)
        return layout.empty() if vector is None or vector.layout is not layout else vector

    def give(self, use: str, vector: Vector) -> None:
        """Gives back a vector that was taken."""
        self._vectors[use] = vector

    def matrix(self, use: str, layout: Layout, rows: int) -> Matrix:
        """A matrix with whatever values it was left with."""
        matrix = self._matrices.get(use)
        if matrix is None or matrix.layout is not layout or len(matrix.rows) != rows:
            self._matrices.pop(use, None)
            matrix = self._matrices[use] = layout.matrix(rows, self._gradient_dtype)
        return matrix
