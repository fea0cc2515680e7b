"""The user's data directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ._errors import DataError


def data_folder(path: str | Path, layout: Sequence[str]) -> Path:
    """Returns an existing data directory.

    Args:
        path: The directory; ``~`` is the home directory.
        layout: What it should contain, for the error message.

    Returns:
        The directory.

    Raises:
        DataError: If it does not exist.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no directory {folder}. It should contain {', '.join(layout)}.")
    return folder


def cache_folder(folder: Path, cache: str | Path | None) -> Path:
    """Returns the directory of a benchmark's cache: `cache`, or ``samo-cache`` in its data."""
    return folder / "samo-cache" if cache is None else Path(cache).expanduser()


def raise_missing(path: Path, layout: Sequence[str]) -> NoReturn:
    """Raises the error about a missing part of the data.

    Args:
        path: The missing file or directory.
        layout: What the user's directory should contain.

    Raises:
        DataError: Always.
    """
    raise DataError(f"{path} is missing. The directory should contain {', '.join(layout)}.")
