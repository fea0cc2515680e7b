"""The directories that hold the user's data."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import NoReturn


def data_folder(path: str | Path, layout: str) -> Path:
    """Makes sure that a directory of data is there.

    Args:
        path: The directory; ``~`` is the home directory.
        layout: How it should look, one entry a line, for the error.

    Returns:
        The directory.

    Raises:
        FileNotFoundError: If there is none.
        NotADirectoryError: If it is a file.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    kind, fault = (
        (NotADirectoryError, "is not a directory")
        if folder.exists()
        else (FileNotFoundError, "does not exist")
    )
    raise kind(f"{folder} {fault}. It should look like this:\n{shown(layout)}")


def not_there(path: Path, layout: str) -> NoReturn:
    """Raises the error about a part of the data that is missing.

    Args:
        path: What is missing.
        layout: How the directory should look, one entry a line.

    Raises:
        FileNotFoundError: In any case.
    """
    raise FileNotFoundError(f"{path} does not exist. The layout should be:\n{shown(layout)}")


def shown(layout: str) -> str:
    """A layout as it is shown in an error, indented."""
    return "\n".join(f"  {line}" for line in inspect.cleandoc(layout).splitlines())
