"""A reader of QM9's raw files, as PyTorch Geometric downloads them, without RDKit."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .._errors import DataError
from ._molecules import BOND_TYPES, ELEMENTS, LARGEST, TARGETS, Molecules

SDF, CSV, EXCLUDED = "gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt"


def read_gdb9(sdf: Path, table: Path, excluded: Path) -> Molecules:
    """Reads QM9 without the molecules that failed its consistency check.

    Args:
        sdf: The 133,885 geometries with their bonds (an SD file, V2000).
        table: The properties (CSV), a row for each geometry, in the same order.
        excluded: The molecules that failed: each line starts with a number, counted from 1.

    Returns:
        The molecules; 130,831 of the original files.

    Raises:
        DataError: If a file is invalid.
    """
    names, targets = _read_table(table)
    n = len(names)
    kept = np.ones(n, dtype=bool)
    kept[_read_excluded(excluded, n)] = False
    numbers = np.zeros((n, LARGEST), dtype=np.uint8)
    positions = np.zeros((n, LARGEST, 3), dtype=np.float32)
    bonds = np.zeros((n, LARGEST, LARGEST), dtype=np.uint8)
    found = 0
    for found, record in enumerate(_records(sdf), start=1):
        if found > n:
            raise DataError(f"{sdf} has more molecules than the {n} rows of {table}.")
        i = found - 1
        if record.name != names[i]:
            raise DataError(
                f"{sdf}: molecule {found} is {record.name!r}, but {table} has {names[i]!r} there."
            )
        atoms = len(record.numbers)
        numbers[i, :atoms] = record.numbers
        positions[i, :atoms] = record.positions
        for a, b, kind in record.bonds:
            bonds[i, a, b] = bonds[i, b, a] = kind
    if found < n:
        raise DataError(f"{sdf} has {found} molecules, but {table} has {n} rows: one is truncated.")
    return Molecules(
        *(torch.from_numpy(array[kept]) for array in (numbers, positions, bonds, targets))
    )


def _read_table(file: Path) -> tuple[list[str], np.ndarray]:
    """Reads the names of the molecules, and their targets in the units of the papers."""
    names: list[str] = []
    rows: list[list[float]] = []
    try:
        with file.open(newline="", encoding="ascii") as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            columns = [target.column for target in TARGETS.values()]
            absent = [name for name in ("mol_id", *columns) if name not in header]
            if absent:
                raise DataError(
                    f"{file} must have the columns mol_id, {', '.join(columns)}; it has no "
                    f"{', '.join(absent)}."
                )
            wanted = [header.index(column) for column in columns]
            name = header.index("mol_id")
            for row in reader:
                if len(row) != len(header):
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(row)} values, but the header has "
                        f"{len(header)}. Is the file truncated?"
                    )
                names.append(row[name])
                rows.append(_numbers([row[i] for i in wanted], f"{file}, line {reader.line_num}"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV file: {error}") from error
    if not rows:
        raise DataError(f"{file} has no rows.")
    return names, np.array(rows) * [target.factor for target in TARGETS.values()]


def _numbers(texts: list[str], where: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error
    for value in values:
        if not math.isfinite(value):
            raise DataError(f"{where}: a value is {value}.")
    return values


def _read_excluded(file: Path, n: int) -> list[int]:
    """Reads the indices, from 0, of the excluded molecules; skips lines without a number."""
    found = []
    try:
        with file.open(encoding="ascii") as lines:
            for line in lines:
                first = line.split(maxsplit=1)[:1]
                if first and first[0].isdecimal():
                    number = int(first[0])
                    if not 1 <= number <= n:
                        raise DataError(
                            f"{file} excludes molecule {number}, but there are only {n}."
                        )
                    found.append(number - 1)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file: {error}") from error
    if not found:
        raise DataError(f"{file} must name molecules by number at the beginning of lines.")
    return found


class _Record(NamedTuple):
    name: str
    numbers: list[int]
    positions: list[tuple[float, float, float]]
    bonds: list[tuple[int, int, int]]


def _records(file: Path) -> Iterator[_Record]:
    count = 0
    try:
        with file.open(encoding="ascii") as lines:
            for title in lines:
                name = title.strip()
                if not name:  # at the end of the file
                    continue
                count += 1
                try:
                    yield _record(name, lines)
                except _RecordError as error:
                    raise DataError(f"{file}, molecule {count} ({name}): {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file: {error}") from error


class _RecordError(Exception):
    """An error in a molecule."""


def _record(name: str, lines: Iterator[str]) -> _Record:
    """Reads the lines below the title: https://en.wikipedia.org/wiki/Chemical_table_file."""
    _program, _comment, counts = _take(lines, 3)
    if "V2000" not in counts:
        raise _RecordError(f"the counts line must be of version V2000; found {counts.strip()!r}.")
    n_atoms, n_bonds = _integers(counts[:6].ljust(6))
    if not (1 <= n_atoms <= LARGEST and n_bonds >= 0):
        raise _RecordError(
            f"there must be 1 to {LARGEST} atoms, and bonds; found {n_atoms} and {n_bonds}."
        )
    numbers, positions, bonds = [], [], []
    for line in _take(lines, n_atoms):
        symbol = line[31:34].strip()
        if symbol not in ELEMENTS:
            raise _RecordError(f"elements must be {', '.join(ELEMENTS)}; found {symbol!r}.")
        numbers.append(ELEMENTS[symbol])
        positions.append(_position(line))
    for line in _take(lines, n_bonds):
        a, b, kind = _integers(line[:9].ljust(9))
        if not (1 <= a <= n_atoms and 1 <= b <= n_atoms and a != b and 1 <= kind <= BOND_TYPES):
            raise _RecordError(
                f"a bond must join two of the {n_atoms} atoms and be of type 1..{BOND_TYPES}; "
                f"found {line.strip()!r}."
            )
        bonds.append((a - 1, b - 1, kind))
    while not _take(lines, 1)[0].startswith("$$$$"):
        pass
    return _Record(name, numbers, positions, bonds)


def _take(lines: Iterator[str], n: int) -> list[str]:
    taken = list(islice(lines, n))
    if len(taken) < n:
        raise _RecordError("the file ends within it.")
    return taken


# There are few different lines of bonds: the cache is several times faster.
@lru_cache(maxsize=20_000)
def _integers(text: str) -> tuple[int, ...]:
    """Parses integers in columns of three."""
    try:
        return tuple(int(text[start : start + 3]) for start in range(0, len(text), 3))
    except ValueError:
        raise _RecordError(f"must be integers in columns of three: {text!r}.") from None


def _position(line: str) -> tuple[float, float, float]:
    """Parses the coordinates of an atom, in columns of ten."""
    try:
        x, y, z = float(line[:10]), float(line[10:20]), float(line[20:30])
    except ValueError:
        raise _RecordError(f"an atom must have three coordinates: {line.rstrip()!r}.") from None
    if not math.isfinite(x + y + z):
        raise _RecordError(f"a coordinate is not finite: {line.rstrip()!r}.")
    return x, y, z
