"""What the user can put right."""

from __future__ import annotations


class RunError(ValueError):
    """A run cannot start, or go on, as it was asked for: one line that says why.

    Raised for settings that do not fit together, for a directory that holds another run, and for
    files that cannot be read. The command line prints the line and exits with status 2.
    """


class DivergedError(RunError):
    """A loss or a metric is not finite when a run is evaluated."""
