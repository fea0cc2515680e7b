"""PCD: one task first, the others as far as they are promised."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import PSDMatrix

from ._arrays import Array, library, to_array, to_tensor
from ._checks import in_range, ranged
from ._forward import of_weighting
from ._nonnegative import NonnegativePrograms
from ._normal import normalized, resolution


@final
class PCDWeighting(Weighting[PSDMatrix], Stateful):
    """The weighting of `PCD`.

    Args:
        tau: The part τ of its own progress that each secondary task is promised, in [0, 1]: a
            number, or one for each secondary task, ``[K - 1]``.
        beta: The decay of the averages of the squared norms, in [0, 1).
        eps: What is added to them, at least 0.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.
    """

    def __init__(self, tau: float | Tensor = 0.02, beta: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__()
        self.tau = tau
        self.beta = beta
        self.eps = eps
        self.register_buffer("_sq_norm_ema", None)
        self.reset()

    @property
    def tau(self) -> float | Tensor:
        """The part of its own progress that each secondary task is promised."""
        return self._tau

    @tau.setter
    def tau(self, value: float | Tensor) -> None:
        if not isinstance(value, Tensor):
            self._tau: float | Tensor = in_range("tau", value, 0, 1)
        elif value.ndim == 1 and ((value >= 0) & (value <= 1)).all():
            self._tau = value
        else:
            raise ValueError(f"tau must be a vector of numbers in [0, 1]; found {value}.")

    beta = ranged("beta", 0, 1, open_high=True)
    eps = ranged("eps", 0)

    def reset(self) -> None:
        """Forgets all calls so far."""
        self._sq_norm_ema: Tensor | None = None
        self._n_steps = 0

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Weighs the tasks, and updates the averages of their squared norms.

        Args:
            gramian: The Gramian, ``[K, K]``; the first task is the primary one.

        Returns:
            The weights, ``[K]``.

        Raises:
            ConvergenceError: If they are not found.
            ValueError: If the Gramian is not finite, or tau is for another number of tasks.
        """
        xp, (cosines, norms), tau = library(), normalized(gramian), self._promises(len(gramian))
        scales = self._scales(norms * norms)
        lengths = norms * scales
        weights = xp.zeros_like(norms)
        if norms[0] > 0:
            weights[0] = lengths[0]
            noise = resolution(gramian)
            weights[1:] = _multipliers(cosines, lengths, tau, noise)
            square = float(weights @ (cosines @ weights))
            # Zero but for rounding is zero.
            if square > noise * float(abs(weights).sum()) ** 2:
                weights = weights * (float(norms[0]) / square**0.5)
                weights = weights / xp.where(norms > 0, norms, 1.0)
            else:
                weights = xp.zeros_like(norms)
        return to_tensor(weights, gramian)

    def _promises(self, n_tasks: int) -> Array:
        if not isinstance(self.tau, Tensor):
            return to_array(torch.full((n_tasks - 1,), self.tau, dtype=torch.float64))
        if len(self.tau) != n_tasks - 1:
            raise ValueError(
                f"tau must have {n_tasks - 1} values for {n_tasks} tasks; found {len(self.tau)}."
            )
        return to_array(self.tau)

    def _scales(self, squares: Array) -> Array:
        """The factors that normalise the gradients, from the averages of their squared norms."""
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

    def __repr__(self) -> str:
        return f"PCDWeighting(tau={self.tau}, beta={self.beta}, eps={self.eps})"


@final
class PCD(GramianWeightedAggregator, Stateful):
    r"""Priority-constrained descent.

    The direction is the nearest to the first task's gradient that gives every other task the part τ
    of the progress that its own gradient would give, all of them normalised:

    .. math::
        \min_d \tfrac12 \|d - \tilde g_1\|^2 \quad \text{s.t.} \quad
        \tilde g_j^\top d \ge \tau \|\tilde g_j\|^2, \quad j \ge 2, \qquad
        \tilde g_i = g_i / \sqrt{v_i + \epsilon}

    with :math:`v_i` the moving average of :math:`\|g_i\|^2`; then d gets the length of
    :math:`g_1` (Varam and AlHajri, TMLR 2026, arXiv 2606.29521). If the promises cannot be kept
    together, d is :math:`g_1`; if :math:`g_1` is zero, or d is but for rounding, zero.

    The problem and the special cases are those of TorchJD's class of the same name, which adds and
    drops one constraint at a time; here the quadratic program is that of MGDA and CAGrad.

    State: the moving averages, ``[K]``, in float64, and the number of calls; they start anew where
    the number of tasks changes.

    Args:
        tau: The part τ of its own progress that each secondary task is promised, in [0, 1]: a
            number, or one for each secondary task, ``[K - 1]``.
        beta: The decay of the averages of the squared norms, in [0, 1).
        eps: What is added to them, at least 0.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from samo.aggregation import PCD
        >>> PCD(tau=0.0)(torch.tensor([[1.0, 0.0], [-2.0, 2.0]]))
        tensor([0.7071, 0.7071])
    """

    gramian_weighting: PCDWeighting

    def __init__(self, tau: float | Tensor = 0.02, beta: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(PCDWeighting(tau, beta, eps))

    tau = of_weighting("tau")
    beta = of_weighting("beta")
    eps = of_weighting("eps")

    def reset(self) -> None:
        """Forgets all calls so far."""
        self.gramian_weighting.reset()

    def __repr__(self) -> str:
        return f"PCD(tau={self.tau}, beta={self.beta}, eps={self.eps})"


def _multipliers(cosines: Array, lengths: Array, tau: Array, noise: float) -> Array:
    """The multipliers of the constraints, times the lengths; zero where they cannot be met."""
    inner, own = cosines[1:, 1:], lengths[1:]
    linear = cosines[1:, 0] * lengths[0] - tau * own
    if not (linear < 0).any():
        return library().zeros_like(own)
    (x,), _ = NonnegativePrograms(inner, noise).solve(linear[None])
    # Where gradients that cancel are promised something, it is missed whole by one of them.
    kept = (x @ inner + linear >= -0.5 * tau * own - 1e-9 * lengths.max()).all()
    return x if kept else library().zeros_like(own)
