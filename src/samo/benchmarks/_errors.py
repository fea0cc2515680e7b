"""What is wrong with the user's data."""

from __future__ import annotations


class DataError(ValueError):
    """A file or directory is missing, or does not hold what it should: one line that says which."""
