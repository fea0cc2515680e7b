"""Errors in the arguments and files of analyses."""

from __future__ import annotations


class AnalysisError(ValueError):
    """An analysis cannot be computed, or its file cannot be read. The message is one line."""
