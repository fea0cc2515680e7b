"""The quadratic program behind MGDA, CAGrad, UPGrad, DualProj and PCD."""

from __future__ import annotations

import sys

from ._arrays import Array, diagonal_of, library
from ._errors import ConvergenceError
from ._exchanges import exchange_singly

# Maximal number of gradient descent steps that improve the guess for many programs at once.
_DESCENT = 30
# Number of rounds after which pivoting counts as cycling.
_ROUNDS = 5
# Maximal number of interior-point steps; 10 to 40 are usual.
_STEPS = 100
# Tolerance of the products x s, relative to the sizes of x and s.
_TOLERANCE = 1e-15
# Smallest number added to the diagonal of C, for linearly dependent gradients.
_RIDGE = 1e-13


class NonnegativePrograms:
    r"""Minimises :math:`\frac12 x^\top C x + q^\top x` over x ≥ 0, for several q at once.

    x is the solution if and only if x ≥ 0, :math:`s = C x + q \ge 0` and :math:`x_i s_i = 0`. Once
    it is known which x are positive, they solve linear equations. Starting from a guess, all
    variables with :math:`x_i < 0` or :math:`s_i < 0` change sides together (principal block
    pivoting; Kostreva, Linear Algebra and its Applications 21, 1978). This ends after 1 to 5 rounds
    for condition numbers up to 1e6. Beyond that it may cycle; then they change sides one at a time
    (`exchange_singly`). The few programs that rounding errors leave without a solution are solved
    by Mehrotra's interior-point method (SIAM Journal on Optimization 2, 1992), which is slower, but
    insensitive to the condition number.

    Args:
        cosines: C, ``[K, K]``, with 1 on the diagonal.
        noise: The size of the rounding errors in C.

    Example:
        >>> import torch
        >>> from samo.aggregation.solvers import to_array
        >>> programs = NonnegativePrograms(to_array(torch.tensor([[1.0, 0.5], [0.5, 1.0]])), 1e-15)
        >>> x, positive = programs.solve(to_array(torch.tensor([[-1.0, -1.0], [-1.0, 1.0]])))
        >>> torch.as_tensor(x)
        tensor([[0.6667, 0.6667],
                [1.0000, 0.0000]], dtype=torch.float64)
    """

    def __init__(self, cosines: Array, noise: float) -> None:
        self.cosines = cosines
        self._magnitudes = abs(cosines)
        self._rounding = 8 * len(cosines) * sys.float_info.epsilon
        self._identity = library().zeros_like(cosines)
        diagonal_of(self._identity)[:] = 1.0
        self._ridge = max(_RIDGE, noise)
        self._matrix = cosines + self._ridge * self._identity

    def solve(self, linear: Array, guess: Array | None = None) -> tuple[Array, Array]:
        """Solves the programs.

        Args:
            linear: The vectors q, ``[n, K]``.
            guess: A guess of which variables are positive, ``[n, K]``.

        Returns:
            The solutions x, ``[n, K]``, and a mask of their positive variables, ``[n, K]``.

        Raises:
            ConvergenceError: If the interior-point method does not converge.
        """
        positive = self._guess(linear) if guess is None else guess
        x = self.equations(positive, linear)
        wrong = self._wrong(x, positive, linear)
        open_ = wrong.any(1)
        for _ in range(_ROUNDS):
            if not open_.any():
                break
            positive = positive ^ wrong
            x[open_] = self.equations(positive[open_], linear[open_])
            wrong[open_] = self._wrong(x[open_], positive[open_], linear[open_])
            open_ = wrong.any(1)
        if open_.any():
            positive[open_] = exchange_singly(self._matrix, linear[open_], self._rounding)
            x[open_] = self.equations(positive[open_], linear[open_])
            open_ = self._wrong(x, positive, linear).any(1)
        if self._ridge > _RIDGE:
            # One step of iterative refinement, with the residual of C itself, undoes the ridge.
            refined = x + self.equations(positive, x @ self.cosines + linear)
            better = (refined >= 0).all(1)
            x[better] = refined[better]
        for row in range(len(x)):
            if open_[row]:
                x[row], positive[row] = self._interior(linear[row])
        return x, positive

    def equations(self, positive: Array, linear: Array) -> Array:
        """Solves C x + q = 0 for the positive variables, with the others at 0.

        Args:
            positive: The mask of the positive variables, ``[n, K]``.
            linear: The vectors q, ``[n, K]``.

        Returns:
            x, ``[n, K]``.
        """
        xp = library()
        if not positive.any():
            return xp.zeros_like(linear)
        inside = positive[:, :, None] & positive[:, None, :]
        matrix = xp.where(inside, self._matrix, self._identity)
        right = xp.where(positive, -linear, 0.0)
        return xp.linalg.solve(matrix, right[:, :, None])[:, :, 0]

    def _guess(self, linear: Array) -> Array:
        """Guesses which variables are positive."""
        guess = linear < 0
        if len(linear) == 1 or not guess.any():
            return guess
        # Gradient steps for all programs together cost less than a pivoting round for each.
        step = 1.8 / float(self._magnitudes.sum(0).max())
        x = nothing = linear * 0.0
        for _ in range(min(len(linear), _DESCENT)):
            x = library().maximum(x - step * (x @ self.cosines + linear), nothing)
        return x > 0

    def _wrong(self, x: Array, positive: Array, linear: Array) -> Array:
        """Marks variables on the wrong side: negative ones, and zeros with a negative slack."""
        slack = x @ self.cosines + linear
        rounding = self._rounding * (abs(x) @ self._magnitudes + abs(linear))
        return library().where(positive, x < 0, slack < -rounding)

    def _interior(self, linear: Array) -> tuple[Array, Array]:
        """Solves one program by Mehrotra's method: x, s > 0 with s = C x + q and x s → 0."""
        xp, size = library(), float(abs(linear).max())
        q = linear / size
        x = s = q * 0.0 + 1.0
        for _ in range(_STEPS):
            missing = s - self._matrix @ x - q
            products = x * s
            mean = float(products.mean())
            scale = float(x.max()) * float((self._magnitudes @ x + abs(q)).max())
            if mean <= _TOLERANCE * scale and float(abs(missing).max()) <= 1e-14 * scale:
                return x * size, x > s
            hessian = self._matrix * 1.0
            diagonal_of(hessian)[:] += s / x
            inverse = xp.linalg.inv(hessian)
            dx = inverse @ (missing - s)
            ds = self._matrix @ dx - missing
            step = _longest(x, s, dx, ds)
            after = float(((x + step * dx) * (s + step * ds)).mean())
            centre = (after / mean) ** 3 * mean
            dx = inverse @ (missing + (centre - dx * ds) / x - s)
            ds = self._matrix @ dx - missing
            step = 0.99 * _longest(x, s, dx, ds)
            x, s = x + step * dx, s + step * ds
        raise ConvergenceError(
            f"The quadratic program of {len(q)} gradients did not converge in {_STEPS} steps."
        )


def _longest(x: Array, s: Array, dx: Array, ds: Array) -> float:
    """Returns the longest step, up to 1, that keeps x and s nonnegative."""
    return 1 / max(1.0, float((-dx / x).max()), float((-ds / s).max()))
