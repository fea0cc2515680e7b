"""MoCo: averages of the task gradients over the steps."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator
from torchjd.linalg import Matrix

from ._checks import check_same_shape
from ._options import ConstructorRepr, ranged
from .solvers import onto_simplex


@final
class MoCo(ConstructorRepr, Aggregator, Stateful):
    r"""Stochastic multi-objective gradient correction.

    The gradients of a minibatch give a biased common descent direction. MoCo therefore tracks each
    task's gradient over the steps, and updates the weights by projected gradient steps on the
    tracked gradients:

    .. math::
        y_i \leftarrow y_i - \beta_k (y_i - g_i), \qquad
        \lambda \leftarrow \Pi_\Delta(\lambda - \gamma_k (Y Y^\top + \rho I) \lambda), \qquad
        d = \sum_i \lambda_i y_i

    with :math:`\beta_k = \beta / k^{\beta_\sigma}` and :math:`\gamma_k = \gamma /
    k^{\gamma_\sigma}` at call k, Δ the simplex, and initially y = 0 and λ = 1 / K (Fernando et al.,
    ICLR 2023, arXiv 2210.12624, Algorithm 1). The order is that of the authors' code: y, then λ,
    then the direction from both. LibMTL's version differs: it divides the gradients by their norms,
    multiplies them by the losses, and uses a softmax instead of the projection.

    The step size γ is absolute, so the weights depend on the size of the gradients. The paper
    bounds y by a projection, which is omitted here as in the authors' code.

    State: y, a matrix of the shape of the gradients in float32 or wider, with the size of K copies
    of the shared parameters; and λ, ``[K]``.

    Args:
        beta: The step size β of the tracking, in (0, 1].
        beta_sigma: The exponent with which β decays.
        gamma: The step size γ of the weights.
        gamma_sigma: The exponent with which γ decays.
        rho: The regularisation ρ of the weights. The defaults are LibMTL's.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import MoCo
        >>> moco = MoCo(beta=0.5)
        >>> moco(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([0.5000, 0.5000])
    """

    beta: float = ranged(0, 1, open_low=True)
    beta_sigma: float = ranged(0)
    gamma: float = ranged(0)
    gamma_sigma: float = ranged(0)
    rho: float = ranged(0)

    def __init__(
        self,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.beta_sigma = beta_sigma
        self.gamma = gamma
        self.gamma_sigma = gamma_sigma
        self.rho = rho
        self.register_buffer("_tracked", None)
        self.register_buffer("_lambda", None)
        self.reset()

    def reset(self) -> None:
        """Resets the tracked gradients and the weights."""
        self._tracked: Tensor | None = None
        self._lambda: Tensor | None = None
        self._calls = 0

    def forward(self, matrix: Matrix, /) -> Tensor:
        """Updates y and λ with the gradients, ``[K, m]``, and returns the direction, ``[m]``."""
        gradients = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        if self._tracked is None or self._lambda is None:
            self._tracked = torch.zeros_like(gradients)
            self._lambda = gradients.new_ones(len(matrix), dtype=torch.float64) / len(matrix)
        check_same_shape(self, matrix, self._tracked)
        self._calls += 1
        self._tracked = self._tracked.lerp(gradients, self.beta / self._calls**self.beta_sigma)
        # The Gramian of gradients near 1e19 overflows in float32.
        scale = self._tracked.abs().amax().clamp(min=torch.finfo(gradients.dtype).tiny)
        unit = self._tracked / scale
        pull = (unit @ unit.T).double() @ self._lambda * scale.double() ** 2
        step = self.gamma / self._calls**self.gamma_sigma
        self._lambda = onto_simplex(self._lambda - step * (pull + self.rho * self._lambda))
        return (self._lambda.to(self._tracked.dtype) @ self._tracked).to(matrix.dtype)
