"""Quadratic programs over x ≥ 0 by exchanges of one variable at a time."""

from __future__ import annotations

import torch

from ._arrays import Array, library

# Maximal number of exchanges, relative to the number of variables; 1 to 2 are usual.
_MOST = 5


def exchange_singly(matrix: Array, linear: Array, rounding: float) -> Array:
    """Determines which variables are positive in the solutions of `NonnegativePrograms`.

    The method of Lawson and Hanson (Solving Least Squares Problems, 1974), for several programs at
    once. x moves towards the minimum over the positive variables, until one of them becomes zero
    and leaves, or the minimum is reached and the variable with the most negative slack enters. The
    objective decreases in each step, so no set of variables occurs twice.

    The *tableau* expresses the basic numbers (x_i of the positive variables, s_i of the others) as
    linear functions of the remaining ones; its last column is their value where those are zero. An
    exchange updates it, which costs less than to solve the equations anew.

    Args:
        matrix: The positive definite matrix C, ``[K, K]``.
        linear: The vectors q, ``[n, K]``.
        rounding: The relative rounding error of the slacks.

    Returns:
        A mask of the positive variables, ``[n, K]``.
    """
    xp, (n, k), magnitudes = library(), linear.shape, abs(matrix)
    tableaus = xp.concatenate((xp.broadcast_to(matrix, (n, k, k)), linear[:, :, None]), 2)
    x, programs = linear * 0.0, xp.arange(n)
    positive = x > 0
    result = positive ^ positive
    for _ in range(_MOST * k):
        values = tableaus[:, :, -1]
        falling = positive & (values < 0)
        shares = xp.where(falling, x / xp.where(falling, x - values, 1.0), 1.0)
        x = x + xp.amin(shares, 1)[:, None] * (xp.where(positive, values, 0.0) - x)
        error = rounding * (x @ magnitudes + abs(linear))
        slack = xp.where(positive | (values >= -error), 0.0, values)
        blocked = falling.any(1)
        chosen = xp.where(blocked, shares.argmin(1), slack.argmin(1))
        result[programs] = positive
        going = blocked | (slack < 0).any(1)
        if not going.all():
            parts = (programs, x, linear, positive, tableaus, chosen)
            programs, x, linear, positive, tableaus, chosen = (part[going] for part in parts)
        if not len(programs):
            break
        rows = xp.arange(len(programs))
        x[rows, chosen] = 0.0
        positive[rows, chosen] = ~positive[rows, chosen]
        _exchange(tableaus, rows, chosen)
    return result


def _exchange(tableaus: Array, rows: Array, chosen: Array) -> None:
    """Exchanges the chosen basic number of each tableau with the other one of its variable."""
    pivot = tableaus[rows, chosen, chosen][:, None]
    column, row = tableaus[rows, :, chosen], tableaus[rows, chosen, :] / pivot
    # In one pass over the memory, which is most of the time; torch shares it with NumPy.
    shared, left, right = map(torch.as_tensor, (tableaus, column[:, :, None], row[:, None, :]))
    shared.addcmul_(left, right, value=-1)
    tableaus[rows, :, chosen] = column / pivot
    tableaus[rows, chosen, :] = -row
    tableaus[rows, chosen, chosen] = 1 / pivot[:, 0]
