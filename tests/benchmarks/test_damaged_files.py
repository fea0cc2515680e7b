"""Readers of the user's files, on files that are odd, damaged or meant to do harm."""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samo.benchmarks import DataError
from samo.benchmarks._arrays import mapped_array
from samo.benchmarks.multimnist._idx import read_idx
from samo.benchmarks.tabular._file import read_table
from tests.benchmarks.tables import houses, write_csv, write_parquet


def npy(header: str, version: int = 1) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + bytes(96)


def with_shape(shape: str) -> bytes:
    return npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n")


ODD = {
    "negative size": with_shape("(-4, 2, 3)"),
    "True as a size": with_shape("(True, 2, 3)"),
    "float as a size": with_shape("(4.0, 2, 3)"),
    "too large": with_shape("(99999999999999999999, 2, 3)"),
    "no shape": with_shape("None"),
    "unterminated": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 3"),
    "an expression": with_shape("(1 << 40, 2, 3)"),
    "nested": with_shape("(" * 3000),
    "unhashable": npy("{[]: 1}"),
    "mixed keys": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 3), 3: 4}"),
    "unknown version": npy("{}", version=9),
    "no header": b"\x93NUMPY",
    "more than there is": with_shape("(4, 2, 300)"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (4, 2, 3), }\n"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_headers_of_arrays(odd: str, tmp_path: Path) -> None:
    file = tmp_path / "0.npy"
    file.write_bytes(ODD[odd])
    with pytest.raises(DataError) as error:
        mapped_array(file)
    assert str(error.value).startswith(f"{file} ")


@pytest.mark.parametrize("reader", [mapped_array, lambda file: read_idx(file, 1), read_table])
def test_what_is_no_file(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    for name in ("directory", "empty"):
        with pytest.raises(DataError) as error:
            reader(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def idx(values: bytes, *sizes: int) -> bytes:
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values


def test_a_small_archive_of_many_bytes(tmp_path: Path) -> None:
    """No more is decompressed than the header says, nor read if that is absurd."""
    file = tmp_path / "labels.gz"
    file.write_bytes(gzip.compress(idx(bytes(50_000_000), 10)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="too long: its header says 10 = 10 bytes; more follow"):
            read_idx(file, 1)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    for sizes in [(2**32 - 1,), (2**20, 2**20, 1)]:
        file.write_bytes(gzip.compress(idx(bytes(100), *sizes)))
        with pytest.raises(DataError, match=r"its header says .* bytes, more than 1 GiB"):
            read_idx(file, len(sizes))


@pytest.mark.parametrize("length", [1001, 131_073, 200_000])
@pytest.mark.parametrize("kind", ["csv", "quoted", "parquet"])
def test_long_column_names(kind: str, length: int, tmp_path: Path) -> None:
    name = "x" * length
    table = [{"y": 1.0, name: 2.0}, {"y": 2.0, name: 3.0}]
    file = tmp_path / f"t.{kind}"
    if kind == "parquet":
        write_parquet(file, table)
    else:
        write_csv(file, table, quoting=int(kind == "quoted"))
    with pytest.raises(DataError, match=rf"has a column name of {length} characters") as error:
        read_table(file)
    assert len(str(error.value)) < 400
    write_csv(file, [{"y": 1.0, "x" * 1000: 2.0}])
    assert read_table(file).num_columns == 2


def read_csv(file: Path) -> object:
    return read_table(file).to_pydict()


FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "npy": (
        lambda file: np.save(file, np.arange(24, dtype=np.float32).reshape(4, 2, 3)),
        lambda file: np.array(mapped_array(file)),
    ),
    "idx": (
        lambda file: file.write_bytes(idx(bytes(range(60)), 5, 4, 3)),
        lambda file: read_idx(file, 3),
    ),
    "gz": (
        lambda file: file.write_bytes(gzip.compress(idx(bytes(range(60)), 5, 4, 3))),
        lambda file: read_idx(file, 3),
    ),
    "csv": (lambda file: write_csv(file, houses(12)), read_csv),
    "parquet": (lambda file: write_parquet(file, houses(12)), read_csv),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FORMATS)
def test_random_damage(form: str, tmp_path: Path) -> None:
    """Flipped bits and cuts are read, or are an error that names the file."""
    file = tmp_path / f"x.{form}"
    write, read = FORMATS[form]
    write(file)
    content, chance = file.read_bytes(), random.Random(form)
    for index in range(100):
        changed = bytearray(content)
        for _ in range(1 + index % 3):
            changed[chance.randrange(min(len(content), 4000))] ^= 1 << chance.randrange(8)
        file.write_bytes(changed[: chance.randrange(len(content))] if index % 5 == 4 else changed)
        message = str(file)
        try:
            read(file)
        except DataError as error:
            message = str(error)
        assert str(file) in message
