"""Seeing why: diagnostics of any model and any losses."""

from ._errors import AnalysisError

__all__ = ["AnalysisError"]
