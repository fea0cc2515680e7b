"""A subset of QM9 in one NumPy file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._errors import DataError
from ._molecules import ELEMENTS, LARGEST, TARGETS, Molecules

# Covalent radii in Å for single, double and triple bonds, by atomic number (Pyykkö and Atsumi,
# Chem. Eur. J. 15, 2009). Hydrogen and fluorine have single bonds only.
_RADII = {
    1: (0.32, -9.0, -9.0),
    6: (0.75, 0.67, 0.60),
    7: (0.71, 0.60, 0.54),
    8: (0.63, 0.57, 0.53),
    9: (0.64, -9.0, -9.0),
}
_BONDED = 1.2  # times the length of a single bond

_KEYS = ("Z", "R", "y", "y_names", "y_units", "extra", "extra_names")


def read_subset(file: Path) -> Molecules:
    """Returns the molecules in a NumPy file, without running code from it.

    The keys are: ``Z``, ``[M, A]``, atomic numbers, zero for padding; ``R``, ``[M, A, 3]``,
    positions in Å; ``y`` with ``y_names`` and ``y_units``, properties; ``extra`` with
    ``extra_names``, among them the atomisation energies in kcal/mol. Other keys are ignored.

    Such a file has no bonds, so they follow from the geometry (see `bonds_of`).

    Raises:
        DataError: If it cannot be read, or is invalid.
    """
    arrays = _read(file)
    z, r = arrays["Z"], arrays["R"]
    if z.ndim != 2 or not 1 <= z.shape[1] <= LARGEST or z.dtype.kind not in "ui" or not len(z):
        raise DataError(
            f"{file}: Z must be integers of shape [M, A] with A in 1..{LARGEST}; found {z.dtype} "
            f"of shape {list(z.shape)}."
        )
    if r.shape != (*z.shape, 3) or r.dtype.kind != "f" or not np.isfinite(r).all():
        raise DataError(
            f"{file}: R must be finite numbers of shape {[*z.shape, 3]}; found {r.dtype} of shape "
            f"{list(r.shape)}."
        )
    if unknown := sorted(set(np.unique(z).tolist()) - {0, *ELEMENTS.values()}):
        raise DataError(f"{file}: Z must contain H, C, N, O and F only; found {unknown}.")
    real = z > 0
    if not real[:, 0].all() or (real[:, 1:] & ~real[:, :-1]).any():
        raise DataError(f"{file}: rows of Z must be atoms, then zeros, with at least one atom.")
    targets = _targets(file, arrays, len(z))
    numbers = torch.from_numpy(z.astype(np.uint8))
    positions = torch.from_numpy(r.astype(np.float32))
    return Molecules(numbers, positions, bonds_of(numbers, positions), torch.from_numpy(targets))


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise DataError("it contains a single array")
            absent = [key for key in _KEYS if key not in found]
            if absent:
                raise DataError(f"it has no {', '.join(absent)}; it must have {', '.join(_KEYS)}")
            return {key: found[key] for key in _KEYS}
    # NumPy and zipfile raise almost any error for a damaged file.
    except Exception as error:
        raise DataError(f"{file} cannot be read as a subset of QM9: {error}.") from error


def _targets(file: Path, arrays: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """Returns the targets in the units of the papers, ``[M, 12]``."""
    for key in ("y", "extra"):
        shape = (n, len(arrays[f"{key}_names"]))
        found = arrays[key]
        if found.shape != shape or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise DataError(
                f"{file}: {key} must be finite numbers of shape {list(shape)} (a column for each "
                f"of {key}_names); found {found.dtype} of shape {list(found.shape)}."
            )
    names = [*arrays["y_names"].tolist(), *arrays["extra_names"].tolist()]
    units = dict(zip(names, arrays["y_units"].tolist(), strict=False))
    values = np.concatenate([arrays["y"], arrays["extra"]], axis=1, dtype=np.float64)
    columns = []
    for target in TARGETS.values():
        if target.column not in names:
            raise DataError(f"{file}: y_names and extra_names have no {target.column}.")
        unit = units.get(target.column, target.given)
        if unit != target.given:
            raise DataError(f"{file}: {target.column} must be in {target.given}; found {unit!r}.")
        columns.append(values[:, names.index(target.column)] * target.factor)
    return np.stack(columns, axis=1)


def bonds_of(numbers: Tensor, positions: Tensor) -> Tensor:
    """Determines bonds from a geometry.

    Atoms are bonded if they are closer than 1.2 times the length of a single bond. The type is the
    one whose length is closest.

    Args:
        numbers: Atomic numbers, ``[M, A]``.
        positions: Positions in Å, ``[M, A, 3]``.

    Returns:
        The bonds as in `Molecules`, ``[M, A, A]``: single, double or triple.
    """
    table = torch.full((max(_RADII) + 1, 3), -9.0)
    for number, radii in _RADII.items():
        table[number] = torch.tensor(radii)
    found = []
    # In chunks, to limit the memory.
    for z, r in zip(numbers.long().split(1000), positions.split(1000), strict=True):
        lengths = table[z].unsqueeze(1) + table[z].unsqueeze(2)
        distances = (r.unsqueeze(1) - r.unsqueeze(2)).norm(dim=3)
        kinds = (distances.unsqueeze(3) - lengths).abs().argmin(3) + 1
        bonded = distances < _BONDED * lengths[..., 0]
        bonded.diagonal(dim1=1, dim2=2).fill_(False)
        found.append(torch.where(bonded, kinds, 0).to(torch.uint8))
    return torch.cat(found)
