"""Data directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ._errors import DataError


def data_folder(path: str | Path, layout: Sequence[str]) -> Path:
    """Returns a data directory, with ``~`` expanded to the home directory.

    Raises:
        DataError: If it does not exist. The message shows its layout.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no directory {folder}. It should contain {', '.join(layout)}.")
    return folder


def cache_folder(folder: Path, cache: str | Path | None) -> Path:
    """Returns the directory of a benchmark's cache: `cache`, or ``samo-cache`` in its data."""
    return folder / "samo-cache" if cache is None else Path(cache).expanduser()


def raise_missing(path: Path, layout: Sequence[str]) -> NoReturn:
    """Raises the error about a missing part of the data, which shows the layout of the directory.

    Raises:
        DataError: Always.
    """
    raise DataError(f"{path} is missing. The directory should contain {', '.join(layout)}.")
