"""Reads ``.npy`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from ._errors import DataError

_MAGIC = b"\x93NUMPY"


def mapped_array(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Maps an array into memory, without running code from the file.

    Args:
        path: A file of ``np.save``.
        mode: Whether the array is read-only (``"r"``) or copied on write (``"c"``).

    Returns:
        The array.

    Raises:
        DataError: If the file cannot be read, is of another kind, or is damaged.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if magic != _MAGIC:
        what = "is empty" if not magic else "is not a .npy file (a pickle, an archive?)"
        raise DataError(f"{path} {what}; a file from np.save is expected.")
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    # The header is a Python literal: NumPy raises almost any error for a damaged one.
    except Exception as error:
        if "Python objects" in str(error):
            raise DataError(f"{path} contains pickled objects, which are not loaded.") from error
        raise DataError(f"{path} is truncated or damaged: {error}.") from error
    return array
