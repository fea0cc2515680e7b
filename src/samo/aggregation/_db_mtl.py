"""DB-MTL: balance of the losses by logarithms, of the gradients by the largest norm."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator
from torchjd.linalg import Matrix

from ._checks import check_positive, check_shape, in_range
from ._moco import check_same_shape
from ._sees_losses import SeesLosses


@final
class DBMTL(Aggregator, SeesLosses, Stateful):
    r"""Dual balancing.

    The gradients are those of the logarithms of the losses, averaged over the steps and brought to
    the norm of the largest:

    .. math::
        \hat g_i \leftarrow \beta_k \hat g_i + (1 - \beta_k) \nabla \log l_i, \qquad
        d = \max_j \|\hat g_j\| \sum_i \frac{\hat g_i}{\|\hat g_i\|}

    with :math:`\nabla \log l_i = g_i / l_i`, :math:`\beta_k = \beta / k^{\beta_\sigma}` at call k,
    and :math:`\hat g = 0` at first (Lin et al., arXiv 2308.12029). The tasks' own parameters
    minimise the sum of the logarithms. The authors' code adds 1e-8 to losses and norms; here a loss
    that is not positive is refused, and a gradient of zero stays zero. Without losses, the
    gradients are taken as they are.

    State: :math:`\hat g`, a matrix of the gradients' shape in float32 or wider, which is memory for
    K copies of the shared parameters.

    Args:
        beta: The weight β of the past, in [0, 1]. The paper tunes it for each benchmark; 0.9 is a
            choice of this package.
        beta_sigma: Its decay; 0 for none.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import DBMTL
        >>> method = DBMTL(beta=0.0)
        >>> method.see_losses(torch.tensor([1.0, 1.0]))
        tensor(0.)
        >>> method(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        tensor([3., 3.])
    """

    def __init__(self, beta: float = 0.9, beta_sigma: float = 0.0) -> None:
        super().__init__()
        self.beta = in_range("beta", beta, 0, 1)
        self.beta_sigma = in_range("beta_sigma", beta_sigma, 0)
        self.register_buffer("_average", None)
        self.reset()

    def reset(self) -> None:
        """Forgets all calls so far."""
        self._average: Tensor | None = None
        self._losses: Tensor | None = None
        self._calls = 0

    def see_losses(self, losses: Tensor, /) -> Tensor:
        """Takes note of the losses.

        Args:
            losses: The natural losses, ``[K]``.

        Returns:
            The sum of their logarithms.

        Raises:
            ValueError: If one is not positive.
        """
        check_positive(self, losses)
        self._losses = losses.detach()
        return losses.log().sum()

    def forward(self, matrix: Matrix, /) -> Tensor:
        """Aggregates the gradients, and takes them into the average.

        Args:
            matrix: The gradients of the losses as they are, ``[K, m]``.

        Returns:
            The direction, ``[m]``.

        Raises:
            ValueError: If the shape changes, or the losses are not as many as the rows.
        """
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

    def __repr__(self) -> str:
        return f"DBMTL(beta={self.beta}, beta_sigma={self.beta_sigma})"
