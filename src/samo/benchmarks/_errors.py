"""Errors in the user's data."""

from __future__ import annotations


class DataError(ValueError):
    """A file or directory is missing or has invalid content. The message is one line."""
