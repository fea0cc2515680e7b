"""Errors of a run that the user can correct."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..records import RunError


class DivergedError(RunError):
    """A loss or a metric is not finite in evaluation."""


@contextmanager
def as_run_error(*kinds: type[Exception], of: str = "") -> Iterator[None]:
    """Turns exceptions of these kinds into a RunError, with `of` before their message."""
    try:
        yield
    except kinds as error:
        raise RunError(f"{of}: {error}" if of else str(error)) from error
