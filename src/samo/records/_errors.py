"""Errors that the user can correct."""

from __future__ import annotations


class RunError(ValueError):
    """A run cannot start or continue as requested; the message is one line.

    Raised for settings that do not fit together, for a directory that holds another run, and for
    files that cannot be read. The command line prints the message and exits with status 2.
    """
