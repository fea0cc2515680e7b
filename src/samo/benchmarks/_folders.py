"""The directories that hold the user's data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ._errors import DataError


def data_folder(path: str | Path, layout: Sequence[str]) -> Path:
    """Makes sure that a directory of data is there.

    Args:
        path: The directory; ``~`` is the home directory.
        layout: What it should hold, for the error.

    Returns:
        The directory.

    Raises:
        DataError: If there is none.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no directory {folder}. It should hold {', '.join(layout)}.")
    return folder


def not_there(path: Path, layout: Sequence[str]) -> NoReturn:
    """Raises the error about a part of the data that is missing.

    Args:
        path: What is missing.
        layout: What the user's directory should hold.

    Raises:
        DataError: In any case.
    """
    raise DataError(f"{path} is missing. The directory should hold {', '.join(layout)}.")
