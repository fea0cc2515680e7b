"""The quadratic program behind MGDA, CAGrad, UPGrad, DualProj and PCD."""

from __future__ import annotations

import math
import sys

from ._arrays import Array, diagonal_of, library
from ._errors import ConvergenceError

# Rounds after which exchanging whole sets is taken to go round in circles.
_ROUNDS = 10
# The ridge by which hard programs are made easy at first, and the one that gradients which depend
# on each other need all the same.
_EASY_RIDGE, _RIDGE = 1e-3, 1e-12


class NonnegativePrograms:
    r"""Minimises :math:`\frac12 x^\top C x + q^\top x` over x ≥ 0, for several q at once.

    x is the solution if and only if x ≥ 0, :math:`s = C x + q \ge 0` and :math:`x_i s_i = 0`. So
    the question is which x are positive: these then solve linear equations, exactly. From a guess
    on, all variables with :math:`x_i < 0` or :math:`s_i < 0` change sides together (principal block
    pivoting; Kostreva, Linear Algebra and its Applications 21, 1978). That ends after 1 to 10
    rounds for condition numbers up to 1e6; beyond that it may go round in circles. Then the program
    is solved with a large ridge first, which shrinks by tenths, each solution the guess for the
    next. What is still open after that is left to Lawson and Hanson's method, which exchanges
    one variable at a time and always ends, if slowly.

    Args:
        cosines: C, ``[K, K]``, with 1 on the diagonal.
        noise: The size of C's rounding errors.
    """

    def __init__(self, cosines: Array, noise: float) -> None:
        self.cosines = cosines
        self.ridge = max(_RIDGE, noise)
        self._magnitudes = abs(cosines)
        xp, size = library(), len(cosines)
        self._bordered = xp.zeros((size + 1, size + 1), dtype=cosines.dtype)
        self._bordered[:size, :size] = cosines
        self._rounding = 8 * len(cosines) * sys.float_info.epsilon

    def solve(self, linear: Array, guess: Array | None = None) -> tuple[Array, Array]:
        """Solves the programs.

        Args:
            linear: The vectors q, ``[n, K]``.
            guess: Which variables are positive, perhaps, ``[n, K]``.

        Returns:
            The solutions x, ``[n, K]``, and which variables are positive in them.

        Raises:
            ConvergenceError: If one is not found.
        """
        guess = linear < 0 if guess is None else guess
        x, positive, unsolved = self._exchange(linear, guess, self.ridge)
        if unsolved.any():
            x[unsolved], positive[unsolved] = self._solve_hard(linear[unsolved])
        return self._refined(x, positive, linear), positive

    def equations(self, positive: Array, linear: Array, ridge: float) -> Array:
        """Solves C x + q = 0 for the variables marked positive, with the others at 0.

        Args:
            positive: The marks, ``[n, K]``.
            linear: The vectors q, ``[n, K]``.
            ridge: What is added to the diagonal of C.

        Returns:
            x, ``[n, K]``.
        """
        matrix, place, mask = self._parts(positive, ridge)
        x = library().zeros_like(linear)
        x[place] = -library().linalg.solve(matrix, (linear[place] * mask)[:, :, None])[:, :, 0]
        return x

    def _parts(self, positive: Array, ridge: float) -> tuple[Array, tuple[Array, Array], Array]:
        """The rows and columns of C of the positive variables, where they are, and a mask."""
        xp, size = library(), int(positive.sum(1).max())
        # The positive variables come first; in the place of others stands a row of zeros.
        rows, place = xp.arange(len(positive))[:, None], (positive * -1.0).argsort(1)[:, :size]
        mask = positive[rows, place]
        found = xp.where(mask, place, len(self.cosines))
        side = len(self._bordered)
        matrix = xp.take(self._bordered, found[:, :, None] * side + found[:, None, :])
        diagonal_of(matrix)[:] = 1.0 + ridge
        return matrix, (rows, place), mask

    def _refined(self, x: Array, positive: Array, linear: Array) -> Array:
        """A first step against rounding, and a second one that takes most of the ridge's effect."""
        matrix, place, mask = self._parts(positive, self.ridge)
        inverse = library().linalg.inv(matrix)
        for ridge in (self.ridge, 0.0):
            residual = (x @ self.cosines + ridge * x + linear)[place] * mask
            x[place] -= (inverse @ residual[:, :, None])[:, :, 0]
        return x.clip(min=0)

    def _exchange(self, linear: Array, positive: Array, ridge: float) -> tuple[Array, Array, Array]:
        """Block pivoting: x, which of it is positive, and which programs are not solved."""
        x = self.equations(positive, linear, ridge)
        wrong = self._wrong(x, positive, linear)
        unsolved = wrong.any(1)
        for _ in range(_ROUNDS):
            if not unsolved.any():
                break
            positive = positive ^ wrong
            every = unsolved.all()
            rows = slice(None) if every else unsolved
            x[rows] = self.equations(positive[rows], linear[rows], ridge)
            wrong[rows] = self._wrong(x[rows], positive[rows], linear[rows])
            unsolved = wrong.any(1)
        return x, positive, unsolved

    def _wrong(self, x: Array, positive: Array, linear: Array) -> Array:
        """The variables on the wrong side: negative ones, and zeros with a negative slack."""
        slack = x @ self.cosines + linear
        rounding = self._rounding * (abs(x) @ self._magnitudes + abs(linear))
        return library().where(positive, x < 0, slack < -rounding)

    def _solve_hard(self, linear: Array) -> tuple[Array, Array]:
        positive, ridge = linear < 0, _EASY_RIDGE
        while ridge > self.ridge:
            x, _, _ = self._exchange(linear, positive, ridge)
            positive, ridge = x > 0, ridge / 10
        x, positive, unsolved = self._exchange(linear, positive, self.ridge)
        for row, open_ in enumerate(unsolved.tolist()):
            if open_:
                one = slice(row, row + 1)
                x[one], positive[one] = self._one_by_one(linear[one], x[one].clip(min=0))
        return x, positive

    def _one_by_one(self, linear: Array, x: Array) -> tuple[Array, Array]:
        """Lawson and Hanson's method for one program, from any x ≥ 0."""
        xp, positive = library(), x > 0
        barred = x < 0
        for _ in range(30 * len(self.cosines)):
            target = self.equations(positive, linear, self.ridge)
            below = positive & (target < 0)
            share = xp.where(below, x, math.inf) / xp.where(below, x - target, 1.0)
            nearest = share.min()
            if nearest <= 1:  # the first ones to become zero on the way there leave
                leaving = share <= nearest
                x = xp.where(leaving, 0.0, (x + nearest * (target - x)).clip(min=0))
                positive = positive & ~leaving
                # One that left as it came did so by rounding, and would come again.
                barred = leaving | (barred & (nearest == 0))
                continue
            x, barred = target, barred & (target == x).all()
            wrong = self._wrong(x, positive, linear) & ~barred
            if not wrong.any():
                return x, positive
            slack = xp.where(wrong, x @ self.cosines + linear, 0.0)
            positive[:, int(slack.argmin())] = True
        raise ConvergenceError(
            f"The quadratic program of {len(self.cosines)} gradients is not solved after "
            f"{30 * len(self.cosines)} steps."
        )
