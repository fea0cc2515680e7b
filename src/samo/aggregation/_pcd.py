"""PCD: improves one task first, with a guaranteed progress for the others."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._gramian_aggregator import GramianAggregator
from ._options import ConstructorRepr, of_weighting, ranged
from .solvers import (
    Array,
    NonnegativePrograms,
    library,
    normalized,
    resolution,
    to_array,
    to_tensor,
)


@final
class PCDWeighting(ConstructorRepr, Weighting[PSDMatrix], Stateful):
    """The weighting of `PCD`, with the same options."""

    tau: float | Tensor = ranged(0, 1, vector=True)
    beta: float = ranged(0, 1, open_high=True)
    eps: float = ranged(0)

    def __init__(self, tau: float | Tensor = 0.02, beta: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__()
        self.tau = tau
        self.beta = beta
        self.eps = eps
        self.register_buffer("_sq_norm_ema", None)
        self.reset()

    def reset(self) -> None:
        """Resets the averages."""
        self._sq_norm_ema: Tensor | None = None
        self._n_steps = 0

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Updates the averages of the squared norms and returns the weights, ``[K]``."""
        xp, (cosines, norms), tau = library(), normalized(gramian), self._fractions(len(gramian))
        scales = self._scales(norms * norms)
        lengths = norms * scales
        weights = xp.zeros_like(norms)
        if norms[0] > 0:
            weights[0] = lengths[0]
            noise = resolution(gramian)
            weights[1:] = _multipliers(cosines, lengths, tau, noise)
            square = float(weights @ (cosines @ weights))
            # A square within the rounding errors counts as zero.
            if square > noise * float(abs(weights).sum()) ** 2:
                weights = weights * (float(norms[0]) / square**0.5)
                weights = weights / xp.where(norms > 0, norms, 1.0)
            else:
                weights = xp.zeros_like(norms)
        return to_tensor(weights, gramian)

    def _fractions(self, n_tasks: int) -> Array:
        if not isinstance(self.tau, Tensor):
            return to_array(torch.full((n_tasks - 1,), self.tau, dtype=torch.float64))
        if len(self.tau) != n_tasks - 1:
            raise ValueError(
                f"tau must have {n_tasks - 1} values for {n_tasks} tasks; found {len(self.tau)}."
            )
        return to_array(self.tau)

    def _scales(self, squares: Array) -> Array:
        """Updates the averages of the squared norms and returns the normalising factors."""
        xp, average = library(), 0.0
        if self._sq_norm_ema is not None and len(self._sq_norm_ema) == len(squares):
            average = to_array(self._sq_norm_ema)
        else:
            self._n_steps = 0
        self._n_steps += 1
        average = self.beta * average + (1 - self.beta) * squares
        self._sq_norm_ema = torch.as_tensor(average)
        roots = xp.sqrt(average / (1 - self.beta**self._n_steps) + self.eps)
        return xp.where(roots > 0, 1.0, 0.0) / xp.where(roots > 0, roots, 1.0)


@final
class PCD(ConstructorRepr, GramianAggregator, Stateful):
    r"""Priority-constrained descent.

    The direction nearest to the first task's gradient that guarantees every other task a fraction τ
    of the progress that its own gradient would make, with normalised gradients:

    .. math::
        \min_d \tfrac12 \|d - \tilde g_1\|^2 \quad \text{s.t.} \quad
        \tilde g_j^\top d \ge \tau \|\tilde g_j\|^2, \quad j \ge 2, \qquad
        \tilde g_i = g_i / \sqrt{v_i + \epsilon}

    with :math:`v_i` the moving average of :math:`\|g_i\|^2`; then d is rescaled to the norm of
    :math:`g_1` (Varam and AlHajri, TMLR 2026, arXiv 2606.29521). If the constraints are infeasible,
    d is :math:`g_1`; if :math:`g_1` is zero, or d is zero up to rounding, d is zero.

    The problem and the special cases are those of TorchJD's class of the same name, which adds and
    drops one constraint at a time; here the solver is that of MGDA and CAGrad.

    State: the moving averages, ``[K]``, in float64, and the number of calls; reset when the number
    of tasks changes.

    Args:
        tau: The fraction τ of its own progress that each secondary task is guaranteed, in [0, 1]: a
            number, or a tensor with one for each secondary task, ``[K - 1]``.
        beta: The decay of the averages of the squared norms, in [0, 1).
        eps: The number ε that is added to these averages, at least 0.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range.

    Example:
        >>> import torch
        >>> from samo.aggregation import PCD
        >>> PCD(tau=0.0)(torch.tensor([[1.0, 0.0], [-2.0, 2.0]]))
        tensor([0.7071, 0.7071])
    """

    gramian_weighting: PCDWeighting
    tau: float | Tensor = of_weighting()
    beta: float = of_weighting()
    eps: float = of_weighting()

    def __init__(self, tau: float | Tensor = 0.02, beta: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(PCDWeighting(tau, beta, eps))

    def reset(self) -> None:
        """Resets the averages."""
        self.gramian_weighting.reset()


def _multipliers(cosines: Array, lengths: Array, tau: Array, noise: float) -> Array:
    """Returns the multipliers of the constraints, times the lengths; zeros if infeasible."""
    inner, own = cosines[1:, 1:], lengths[1:]
    linear = cosines[1:, 0] * lengths[0] - tau * own
    if not (linear < 0).any():
        return library().zeros_like(own)
    (x,), _ = NonnegativePrograms(inner, noise).solve(linear[None])
    # If progress is required of gradients that cancel, one of them misses all of it.
    kept = (x @ inner + linear >= -0.5 * tau * own - 1e-9 * lengths.max()).all()
    return x if kept else library().zeros_like(own)
