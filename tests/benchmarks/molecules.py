"""A few small molecules in the layouts that QM9 has on disk, with artificial values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Atom = tuple[str, float, float, float]
NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
COLUMNS = [
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("u0", "u298", "h298", "g298", "cv", "u0_atom", "u298_atom", "h298_atom", "g298_atom"),
]

# Geometries in Å, and bonds (from 1) with their types. The lengths are experimental ones.
SHAPES: list[tuple[list[Atom], list[tuple[int, int, int]]]] = [
    (  # methane
        [
            ("C", 0, 0, 0),
            ("H", 0.6276, 0.6276, 0.6276),
            ("H", 0.6276, -0.6276, -0.6276),
            ("H", -0.6276, 0.6276, -0.6276),
            ("H", -0.6276, -0.6276, 0.6276),
        ],
        [(1, 2, 1), (1, 3, 1), (1, 4, 1), (1, 5, 1)],
    ),
    ([("O", 0, 0, 0), ("H", 0.757, 0.587, 0), ("H", -0.757, 0.587, 0)], [(1, 2, 1), (1, 3, 1)]),
    (  # acetylene
        [("C", 0, 0, 0.6013), ("C", 0, 0, -0.6013), ("H", 0, 0, 1.6644), ("H", 0, 0, -1.6644)],
        [(1, 2, 3), (1, 3, 1), (2, 4, 1)],
    ),
    ([("H", 0, 0, 1.064), ("C", 0, 0, 0), ("N", 0, 0, -1.156)], [(1, 2, 1), (2, 3, 3)]),
    (  # formaldehyde, its double bond written from oxygen to carbon
        [("O", 0, 0, 1.205), ("C", 0, 0, 0), ("H", 0.937, 0, -0.578), ("H", -0.937, 0, -0.578)],
        [(1, 2, 2), (2, 3, 1), (2, 4, 1)],
    ),
    (  # fluoromethane
        [
            ("F", 0, 0, 1.382),
            ("C", 0, 0, 0),
            ("H", 1.03, 0, -0.36),
            ("H", -0.515, 0.892, -0.36),
            ("H", -0.515, -0.892, -0.36),
        ],
        [(1, 2, 1), (2, 3, 1), (2, 4, 1), (2, 5, 1)],
    ),
]


@dataclass
class Made:
    """The written values, in the order of the files."""

    names: list[str]
    atoms: list[list[Atom]]
    bonds: list[list[tuple[int, int, int]]]
    rows: np.ndarray  # COLUMNS, in the files' units


def make(n: int = 40, seed: int = 0) -> Made:
    """Makes rotated and shifted shapes, with values that depend on the composition."""
    random = np.random.default_rng(seed)
    made = Made([], [], [], random.normal(size=(n, len(COLUMNS))))
    for i in range(n):
        atoms, bonds = SHAPES[i % len(SHAPES)]
        rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
        moved = np.array([atom[1:] for atom in atoms]) @ rotation + random.normal(size=3)
        made.names.append(f"gdb_{i + 1}")
        made.atoms.append([(a[0], *p) for a, p in zip(atoms, moved.round(4).tolist(), strict=True)])
        made.bonds.append(bonds)
        made.rows[i] = 0.05 * made.rows[i] + len(atoms) + sum(NUMBERS[a[0]] for a in atoms) / 10
    made.rows = made.rows.round(6)
    return made


def record(name: str, atoms: Sequence[Atom], bonds: Sequence[tuple[int, int, int]]) -> str:
    """A molecule as in gdb9.sdf."""
    lines = [name, "  -OEChem-03231823243D", ""]
    lines.append(f"{len(atoms):3d}{len(bonds):3d}  0     0  0  0  0  0  0999 V2000")
    zeros = "  0" * 11
    lines += [f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3s} 0{zeros}" for s, x, y, z in atoms]
    lines += [f"{a:3d}{b:3d}{kind:3d}  0  0  0  0" for a, b, kind in bonds]
    return "\n".join([*lines, "M  END", "$$$$", ""])


def write_raw(folder: Path, made: Made, excluded: Sequence[int] = (2, 9)) -> Path:
    """PyTorch Geometric's layout; molecules are excluded by number, from 1."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    text = "".join(map(record, made.names, made.atoms, made.bonds))
    (raw / "gdb9.sdf").write_text(text, encoding="ascii")
    rows = [
        f"{name},{','.join(map(repr, row))}"
        for name, row in zip(made.names, made.rows.tolist(), strict=True)
    ]
    (raw / "gdb9.sdf.csv").write_text("\n".join([f"mol_id,{','.join(COLUMNS)}", *rows, ""]))
    listed = [f"{number:8d}  C1=CC=C1   c1ccc1   " for number in excluded]
    head = ["=" * 40, f"The {len(listed)} molecules that failed", "", "Index  SMILES", "-" * 40]
    (raw / "uncharacterized.txt").write_text("\n".join([*head, *listed, "=" * 40, ""]))
    return folder


UNITS = dict.fromkeys(("homo", "lumo", "gap", "zpve", "u0", "u298", "h298", "g298"), "Ha") | {
    "mu": "D",
    "alpha": "a0^3",
    "r2": "a0^2",
    "cv": "cal/mol/K",
}


def arrays(made: Made) -> dict[str, Any]:
    """The keys of a subset file."""
    n = len(made.names)
    z, r = np.zeros((n, 29), dtype=np.uint8), np.zeros((n, 29, 3), dtype=np.float32)
    for i, atoms in enumerate(made.atoms):
        z[i, : len(atoms)] = [NUMBERS[a[0]] for a in atoms]
        r[i, : len(atoms)] = [a[1:] for a in atoms]
    y_names, extra_names = COLUMNS[3:15], [*COLUMNS[:3], *COLUMNS[15:]]
    return {
        "gdb_id": np.arange(1, n + 1, dtype=np.int32),
        "Z": z,
        "R": r,
        "y": made.rows[:, 3:15],
        "y_names": np.array(y_names),
        "y_units": np.array([UNITS[name] for name in y_names]),
        "extra": made.rows[:, [0, 1, 2, 15, 16, 17, 18]],
        "extra_names": np.array(extra_names),
    }


def write_subset(folder: Path, made: Made, edit: Callable[..., Any] | None = None) -> Path:
    """The layout of a subset, after an edit of its arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    content = arrays(made)
    if edit is not None:
        content = edit(content) or content
    np.savez_compressed(folder / "qm9_3d.npz", **content)
    return folder
