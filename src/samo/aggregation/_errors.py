"""The error of a method that finds no weights."""

from __future__ import annotations


class ConvergenceError(ArithmeticError):
    """An iteration did not reach its tolerance; there are no weights to go on with."""
