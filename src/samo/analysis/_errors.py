"""What the user of an analysis can put right."""

from __future__ import annotations


class AnalysisError(ValueError):
    """An analysis cannot be made, or its file cannot be read: one line that says why."""
