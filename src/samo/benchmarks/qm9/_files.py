"""Detects the layout of the data directory."""

from __future__ import annotations

from pathlib import Path

from .._errors import DataError
from ._gdb9 import CSV, EXCLUDED, SDF, read_gdb9
from ._molecules import Molecules
from ._subset import read_subset

_SUBSET = "qm9_3d.npz"
_LAYOUT = f"""\
It should look like this (PyTorch Geometric's; raw/ may be left out):
  raw/{SDF}
  raw/{CSV}
  raw/{EXCLUDED}
or like this:
  {_SUBSET}"""


def read_molecules(data: str | Path) -> Molecules:
    """Returns the molecules in a directory of either layout, or in the file of a subset.

    Raises:
        DataError: If a file is missing or invalid, or the directory has neither layout.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return read_subset(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist. {_LAYOUT}")
    for folder in (path / "raw", path):
        files = [folder / name for name in (SDF, CSV, EXCLUDED)]
        absent = [str(file) for file in files if not file.is_file()]
        if not absent:
            return read_gdb9(*files)
        if len(absent) < len(files):
            raise DataError(f"{' and '.join(absent)} does not exist. {_LAYOUT}")
    if (path / _SUBSET).is_file():
        return read_subset(path / _SUBSET)
    raise DataError(
        f"{path} does not contain QM9. {_LAYOUT}\nPyTorch Geometric's processed files (qm9_v3.pt, "
        f"data_v3.pt) cannot be read: it downloads the raw files if RDKit is installed."
    )
