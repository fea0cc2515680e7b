"""MoCo: task gradients that are tracked over the steps."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator
from torchjd.linalg import Matrix

from ._checks import in_range
from ._simplex import onto_simplex


@final
class MoCo(Aggregator, Stateful):
    r"""Stochastic multi-objective gradient correction.

    A minibatch's gradients give a biased common descent direction. So each task's gradient is
    tracked over the steps, and the weights follow the tracked ones, a projected gradient step at a
    time:

    .. math::
        y_i \leftarrow y_i - \beta_k (y_i - g_i), \qquad
        \lambda \leftarrow \Pi_\Delta(\lambda - \gamma_k (Y Y^\top + \rho I) \lambda), \qquad
        d = \sum_i \lambda_i y_i

    with :math:`\beta_k = \beta / k^{\beta_\sigma}` and :math:`\gamma_k = \gamma /
    k^{\gamma_\sigma}` at call k, Δ the simplex, y = 0 and λ = 1 / K at first (Fernando et al., ICLR
    2023, arXiv 2210.12624, Algorithm 1). The order is that of the authors' code: y, then λ, then
    the direction of both. LibMTL's version differs: it divides the gradients by their norms and
    multiplies them by the losses, and has a softmax for the projection.

    The step γ is absolute, so the weights depend on the size of the gradients. The paper bounds y
    by a projection, which the authors' code leaves out, as is done here.

    State: y, a matrix of the gradients' shape in float32 or wider, which is memory for K copies of
    the shared parameters.

    Args:
        beta: The step β of the tracking, in (0, 1].
        beta_sigma: Its decay.
        gamma: The step γ of the weights.
        gamma_sigma: Its decay.
        rho: The regularisation ρ of the weights. The defaults are LibMTL's.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import MoCo
        >>> moco = MoCo(beta=0.5)
        >>> moco(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
    ) -> None:
        super().__init__()
        self.beta = in_range("beta", beta, 0, 1, open_low=True)
        self.beta_sigma = in_range("beta_sigma", beta_sigma, 0)
        self.gamma = in_range("gamma", gamma, 0)
        self.gamma_sigma = in_range("gamma_sigma", gamma_sigma, 0)
        self.rho = in_range("rho", rho, 0)
        self.register_buffer("_tracked", None)
        self.register_buffer("_lambda", None)
        self.reset()

    def reset(self) -> None:
        """Forgets all calls so far."""
        self._tracked: Tensor | None = None
        self._lambda: Tensor | None = None
        self._calls = 0

    def forward(self, matrix: Matrix, /) -> Tensor:
        """Aggregates the gradients, and takes them into the tracked ones.

        Args:
            matrix: The gradients, ``[K, m]``.

        Returns:
            The direction, ``[m]``.

        Raises:
            ValueError: If the shape changes.
        """
        gradients = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        if self._tracked is None or self._lambda is None:
            self._tracked = torch.zeros_like(gradients)
            self._lambda = gradients.new_ones(len(matrix), dtype=torch.float64) / len(matrix)
        check_same_shape(self, matrix, self._tracked)
        self._calls += 1
        self._tracked = self._tracked.lerp(gradients, self.beta / self._calls**self.beta_sigma)
        # The Gramian of tracked gradients near 1e19 is beyond float32.
        scale = self._tracked.abs().amax().clamp(min=torch.finfo(gradients.dtype).tiny)
        unit = self._tracked / scale
        pull = (unit @ unit.T).double() @ self._lambda * scale.double() ** 2
        step = self.gamma / self._calls**self.gamma_sigma
        self._lambda = onto_simplex(self._lambda - step * (pull + self.rho * self._lambda))
        return (self._lambda.to(self._tracked.dtype) @ self._tracked).to(matrix.dtype)

    def __repr__(self) -> str:
        return (
            f"MoCo(beta={self.beta}, beta_sigma={self.beta_sigma}, gamma={self.gamma}, "
            f"gamma_sigma={self.gamma_sigma}, rho={self.rho})"
        )


def check_same_shape(method: Stateful, matrix: Tensor, kept: Tensor) -> None:
    """Refuses gradients of another shape than those that a method keeps.

    Args:
        method: The method, for the message.
        matrix: The gradients.
        kept: What is kept of the earlier ones.

    Raises:
        ValueError: If the shapes differ.
    """
    if matrix.shape != kept.shape:
        raise ValueError(
            f"{type(method).__name__} keeps gradients of shape {tuple(kept.shape)}; found "
            f"{tuple(matrix.shape)}. Call reset() before the tasks or the shared parameters change."
        )
