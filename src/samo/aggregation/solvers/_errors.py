"""The error that solvers raise."""

from __future__ import annotations


class ConvergenceError(ArithmeticError):
    """A solver did not reach its tolerance."""
