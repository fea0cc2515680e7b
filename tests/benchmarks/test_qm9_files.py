"""Errors for missing, truncated and invalid files of QM9 name the file and the fault."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samo.benchmarks import DataError
from samo.benchmarks.qm9 import QM9
from tests.benchmarks.molecules import Made, make, write_raw, write_subset


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def lines_changed(name: str, change: Callable[[list[str]], Any]) -> Callable[[Path], None]:
    """Edits the lines of one of the raw files in place."""

    def spoil(folder: Path) -> None:
        file = folder / "raw" / name
        lines = file.read_text().split("\n")
        lines = change(lines) or lines
        file.write_text("\n".join(lines))

    return spoil


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "raw" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return spoil


def pickled(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(pickle.dumps({"a": [1.5], "text": "é"}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        # The atoms and bonds.
        (
            lines_changed("gdb9.sdf", lambda lines: lines[:-30]),
            "gdb9.sdf, molecule 38 (gdb_38): the file ends within it.",
        ),
        (
            lines_changed("gdb9.sdf", lambda lines: [*lines[: lines.index("gdb_30")], ""]),
            "gdb9.sdf has 29 molecules, but",
        ),
        (replaced("gdb9.sdf", "gdb_3\n", "gdb_4\n"), "molecule 3 is 'gdb_4', but"),
        (replaced("gdb9.sdf", "V2000", "V3000"), "must be of version V2000; found '5  4"),
        (
            replaced("gdb9.sdf", " C  ", " Si "),
            "(gdb_1): elements must be H, C, N, O, F; found 'Si'",
        ),
        (replaced("gdb9.sdf", "  1  2  1", "  1  9  1"), "must join two of the 5 atoms"),
        (replaced("gdb9.sdf", "  1  2  1", "  1  2  5"), "be of type 1..4; found '1  2  5"),
        (replaced("gdb9.sdf", "  1  2  1", "  1  1  1"), "must join two of the 5 atoms"),
        (
            replaced("gdb9.sdf", "  1  2  1", "  a  2  1"),
            "must be integers in columns of three: '  a  2  1'",
        ),
        (
            replaced("gdb9.sdf", "  5  4", "  5   "),
            "must be integers in columns of three: '  5   '",
        ),
        (
            replaced("gdb9.sdf", "  5  4", " 30  4"),
            "there must be 1 to 29 atoms, and bonds; found 30 and 4",
        ),
        (
            replaced("gdb9.sdf", "  5  4", "  0  4"),
            "there must be 1 to 29 atoms, and bonds; found 0 and 4",
        ),
        (
            lines_changed(
                "gdb9.sdf", lambda lines: lines.__setitem__(4, "     1.0.0" + lines[4][10:])
            ),
            "an atom must have three coordinates",
        ),
        (
            lines_changed(
                "gdb9.sdf", lambda lines: lines.__setitem__(4, "       nan" + lines[4][10:])
            ),
            "a coordinate is not finite",
        ),
        (pickled("raw/gdb9.sdf"), "gdb9.sdf is not a text file"),
        # The properties.
        (
            lines_changed("gdb9.sdf.csv", lambda lines: [*lines[:30], ""]),
            "gdb9.sdf has more molecules than the 29 rows of",
        ),
        (
            lines_changed("gdb9.sdf.csv", lambda lines: [*lines[:30], lines[30][:40]]),
            "gdb9.sdf.csv, line 31: 5 values, but the header has 20. Is the file truncated?",
        ),
        (replaced("gdb9.sdf.csv", "homo", "HOMO"), "it has no homo."),
        (replaced("gdb9.sdf.csv", ",u0_atom", ",u0_at"), "it has no u0_atom."),
        (lines_changed("gdb9.sdf.csv", lambda lines: lines[:1]), "gdb9.sdf.csv has no rows"),
        (lines_changed("gdb9.sdf.csv", lambda lines: [""]), "it has no mol_id, mu, alpha, homo,"),
        (
            lines_changed("gdb9.sdf.csv", lambda lines: lines.__setitem__(3, "gdb_3" + ",x" * 19)),
            "gdb9.sdf.csv, line 4: could not convert string to float: 'x'.",
        ),
        (
            lines_changed(
                "gdb9.sdf.csv", lambda lines: lines.__setitem__(3, "gdb_3" + ",inf" * 19)
            ),
            "gdb9.sdf.csv, line 4: a value is inf.",
        ),
        (pickled("raw/gdb9.sdf.csv"), "gdb9.sdf.csv is not a CSV file"),
        # What is left out.
        (replaced("uncharacterized.txt", "       9 ", "      41 "), "excludes molecule 41, but"),
        (
            lines_changed("uncharacterized.txt", lambda lines: lines[:5]),
            "uncharacterized.txt must name molecules by number",
        ),
        (pickled("raw/uncharacterized.txt"), "uncharacterized.txt is not a text file"),
    ],
)
def test_errors_in_raw_files(
    spoil: Callable[[Path], None], message: str, made: Made, tmp_path: Path
) -> None:
    write_raw(tmp_path, made)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        QM9(data=tmp_path)
    assert str(tmp_path / "raw") in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.update(Z=d["Z"].astype(float)), "Z must be integers of shape [M, A]"),
        (lambda d: d.update(Z=d["Z"][0]), "found uint8 of shape [29]"),
        (
            lambda d: d.update(Z=d["Z"] + 10 * (d["Z"] == 8)),
            "Z must contain H, C, N, O and F only; found [18]",
        ),
        (lambda d: d["Z"].__setitem__((0, 1), 0), "rows of Z must be atoms, then zeros"),
        (lambda d: d["Z"].__setitem__(4, 0), "at least one atom"),
        (lambda d: d.update(R=d["R"][:-1]), "R must be finite numbers of shape [40, 29, 3]"),
        (lambda d: d["R"].__setitem__((0, 0, 0), np.nan), "R must be finite numbers"),
        (lambda d: d.update(y=d["y"][:, :-1]), "y must be finite numbers of shape [40, 12]"),
        (lambda d: d["extra"].__setitem__((3, 3), np.inf), "extra must be finite numbers"),
        (lambda d: d["y_names"].__setitem__(2, "h"), "y_names and extra_names have no homo"),
        (lambda d: d["y_units"].__setitem__(2, "eV"), "homo must be in Ha; found 'eV'"),
        (
            lambda d: {k: v for k, v in d.items() if k != "extra"},
            "it has no extra; it must have Z,",
        ),
        (lambda d: d.update(y=d["y"].astype(object)), "Object arrays cannot be loaded"),
        (lambda d: d["y"].__setitem__((slice(None), 1), 3.0), "alpha has the same value for all"),
        (
            lambda d: {k: v[:3] if len(v) == 40 else v for k, v in d.items()},
            "has 3 molecules: at least 4 are needed",
        ),
    ],
)
def test_errors_in_subsets(
    spoil: Callable[..., Any], message: str, made: Made, tmp_path: Path
) -> None:
    write_subset(tmp_path, made, spoil)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        QM9(data=tmp_path)
    assert str(tmp_path) in str(caught.value)


def single_array(folder: Path) -> None:
    with (folder / "qm9_3d.npz").open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled("qm9_3d.npz"), "pickle"),
        (lambda d: (d / "qm9_3d.npz").write_bytes(b""), "No data left in file"),
        (
            lambda d: (d / "qm9_3d.npz").write_bytes((d / "qm9_3d.npz").read_bytes()[:-500]),
            "File is not a zip file",
        ),
        (
            lambda d: (d / "qm9_3d.npz").write_bytes(
                (d / "qm9_3d.npz").read_bytes().replace(b"\x9c", b"\x9d")
            ),
            "cannot be read as a subset of QM9",
        ),
        (single_array, "it contains a single array"),
    ],
)
def test_files_that_are_not_a_subset_raise_errors(
    spoil: Callable[[Path], Any], message: str, made: Made, tmp_path: Path
) -> None:
    write_subset(tmp_path, made)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        QM9(data=tmp_path)
    assert str(tmp_path / "qm9_3d.npz") in str(caught.value)


def test_the_error_names_missing_files_and_shows_the_layout(made: Made, tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            QM9(data=path)
        assert "raw/gdb9.sdf.csv\n" in str(caught.value)
        assert "qm9_3d.npz" in str(caught.value)
        return str(caught.value)

    assert message(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'} does not exist. ")
    assert "does not contain QM9" in message(tmp_path)
    assert "qm9_v3.pt" in message(tmp_path)
    write_raw(tmp_path, made)
    (tmp_path / "raw" / "uncharacterized.txt").unlink()
    assert message(tmp_path).startswith(
        f"{tmp_path / 'raw' / 'uncharacterized.txt'} does not exist"
    )
