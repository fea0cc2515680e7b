"""DB-MTL: balances losses by logarithms, and gradients by their largest norm."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator
from torchjd.linalg import Matrix

from ._checks import check_positive, check_same_shape, check_shape
from ._options import ConstructorRepr, ranged
from ._sees_losses import SeesLosses


@final
class DBMTL(ConstructorRepr, Aggregator, SeesLosses, Stateful):
    r"""Dual balancing.

    Averages the gradients of the logarithms of the losses over the steps, and rescales them to the
    norm of the largest:

    .. math::
        \hat g_i \leftarrow \beta_k \hat g_i + (1 - \beta_k) \nabla \log l_i, \qquad
        d = \max_j \|\hat g_j\| \sum_i \frac{\hat g_i}{\|\hat g_i\|}

    with :math:`\nabla \log l_i = g_i / l_i`, :math:`\beta_k = \beta / k^{\beta_\sigma}` at call k,
    and :math:`\hat g = 0` initially (Lin et al., arXiv 2308.12029). The tasks' own parameters
    minimise the sum of the logarithms. The authors' code adds 1e-8 to losses and norms; here losses
    must be positive, and a zero gradient stays zero. If no losses are given, the gradients are not
    divided by them.

    State: :math:`\hat g`, a matrix of the shape of the gradients in float32 or wider, with the size
    of K copies of the shared parameters.

    Args:
        beta: The decay β of the average, in [0, 1]. The paper tunes it for each benchmark; the
            default is this package's choice.
        beta_sigma: The exponent with which β itself decays; 0 for none.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import DBMTL
        >>> method = DBMTL(beta=0.0)
        >>> method.see_losses(torch.tensor([1.0, 1.0]))
        tensor(0.)
        >>> method(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        tensor([3., 3.])
    """

    beta: float = ranged(0, 1)
    beta_sigma: float = ranged(0)

    def __init__(self, beta: float = 0.9, beta_sigma: float = 0.0) -> None:
        super().__init__()
        self.beta = beta
        self.beta_sigma = beta_sigma
        self.register_buffer("_average", None)
        self.reset()

    def reset(self) -> None:
        """Resets the average and the losses."""
        self._average: Tensor | None = None
        self._losses: Tensor | None = None
        self._calls = 0

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Stores the losses and returns the sum of their logarithms."""
        check_positive(self, losses)
        self._losses = losses.detach()
        return losses.log().sum()

    def forward(self, matrix: Matrix, /) -> Tensor:
        """Updates the average of the gradients, ``[K, m]``, and returns the direction, ``[m]``."""
        gradients = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        if self._losses is not None:
            check_shape(self, self._losses, len(matrix))
            gradients = gradients / self._losses.to(gradients)[:, None]
        if self._average is None:
            self._average = torch.zeros_like(gradients)
        check_same_shape(self, matrix, self._average)
        self._calls += 1
        self._average = gradients.lerp(self._average, self.beta / self._calls**self.beta_sigma)
        norms = torch.linalg.vector_norm(self._average, dim=1)
        factors = (norms.max() / norms).where(norms > 0, 0.0)
        direction: Tensor = factors @ self._average
        return direction.to(matrix.dtype)
