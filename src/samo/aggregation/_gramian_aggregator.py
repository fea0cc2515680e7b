"""The base of this package's aggregators that need the Gramian of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import Matrix, PSDMatrix

_BLOCK = 1 << 18  # numbers that are converted to float64 at a time


class GramianAggregator(GramianWeightedAggregator):
    """Weighs the rows of a matrix by their Gramian, in float64.

    TorchJD computes :math:`J J^T` in the dtype of J. In float32 this loses eigenvalues below 1e-7
    of the largest, and overflows for gradients of 1e20; the weights may depend on either.

    Args:
        gramian_weighting: The weighting of the Gramian.
    """

    def __init__(self, gramian_weighting: Weighting[PSDMatrix]) -> None:
        super().__init__(gramian_weighting)
        self.weighting = _OfMatrix(gramian_weighting)

    def __repr__(self) -> str:
        if type(self).__init__ is not GramianAggregator.__init__:
            return super().__repr__()  # of a method with arguments of its own
        return f"{type(self).__name__}({self.gramian_weighting!r})"


class _OfMatrix(Weighting[Matrix]):
    """Weighs the rows of a matrix, in its dtype, by a weighting of their Gramian."""

    def __init__(self, gramian_weighting: Weighting[PSDMatrix]) -> None:
        super().__init__()
        self.weighting = gramian_weighting

    def forward(self, matrix: Matrix, /) -> Tensor:
        """Returns the weights, ``[K]``, for the matrix, ``[K, m]``."""
        n = len(matrix)
        gramian = torch.zeros(n, n, dtype=torch.float64, device=matrix.device)
        for columns in matrix.detach().split(max(1, _BLOCK // max(1, n)), dim=1):
            wide = columns.to(torch.float64)
            gramian.addmm_(wide, wide.T)
        return self.weighting(gramian).to(matrix.dtype)
