"""Supported files, and errors for invalid ones."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import logging
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samo.benchmarks import Tabular, create
from tests.benchmarks.tables import TASKS, Row, houses, whole, write_csv, write_parquet

N = 40


def rows(**columns: Callable[[int], Any]) -> list[Row]:
    """Makes rows with an input x, a task y, and further columns."""
    made: dict[str, Callable[[int], Any]] = {"x": lambda i: i * i % 23, "y": lambda i: i % 9 / 4}
    return [{name: of(i) for name, of in (made | columns).items()} for i in range(N)]


def same(a: Tabular, b: Tabular) -> bool:
    tensors = zip(whole(a, "train"), whole(b, "train"), strict=True)
    return all(torch.equal(x.nan_to_num(-9), y.nan_to_num(-9)) for x, y in tensors)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, "bom.csv"),
        (gzip.compress, "t.csv.gz"),
        (lambda text: text.replace(b",", b", "), "spaces.csv"),
        (lambda text: text.replace(b"\r\n", b"\n") + b"\n\n", "unix.csv"),
        (lambda text: text.replace(b",", b"|"), "bars"),
        (lambda text: text.replace(b",,", b",NA,").replace(b",\r", b",null\r"), "named.csv"),
        (lambda text: re.sub(rb"(?<=,)(Bonn|Ulm)", rb'"\1"', text), "quoted.csv"),
    ],
)
def test_dialects_of_csv(tmp_path: Path, change: Callable[[bytes], bytes], name: str) -> None:
    plain = write_csv(tmp_path / "plain.csv", houses())
    other = tmp_path / name
    other.write_bytes(change(plain.read_bytes()))
    assert same(Tabular(data=plain, tasks=TASKS), Tabular(data=other, tasks=TASKS))


def test_types_of_parquet(tmp_path: Path) -> None:
    """Each type gives what the same values give as text in a CSV file."""
    day = datetime.date(2024, 2, 28)
    columns: dict[str, tuple[Callable[[int], Any], Any]] = {
        "x": (lambda i: i * i % 23, pa.int16()),
        "half": (lambda i: i % 5 / 2, pa.float32()),
        "money": (
            lambda i: None if i % 6 == 1 else decimal.Decimal(i % 7) / 4,
            pa.decimal128(6, 2),
        ),
        "date": (lambda i: day + datetime.timedelta(days=i * i % 31), pa.date32()),
        "time": (lambda i: datetime.datetime(2024, 1, 1 + i % 28, i % 24), pa.timestamp("ms")),
        "text": (lambda i: None if i % 9 == 4 else "pqr"[i % 3], pa.large_string()),
        "coded": (lambda i: "uvw"[i * i % 3], pa.dictionary(pa.int8(), pa.string())),
        "truth": (lambda i: i % 4 < 2, pa.bool_()),
        "nothing": (lambda i: None, pa.null()),
        "y": (lambda i: float("nan") if i % 8 == 3 else i % 9 / 4, pa.float64()),
    }
    table = rows(**{name: of for name, (of, _) in columns.items()})
    types = {name: kind for name, (_, kind) in columns.items()}
    parquet = Tabular(data=write_parquet(tmp_path / "t.parquet", table, types), tasks="y")
    as_text = [{k: str(v).lower() if k == "truth" else v for k, v in row.items()} for row in table]
    assert same(parquet, Tabular(data=write_csv(tmp_path / "t.csv", as_text), tasks="y"))
    assert "numeric inputs: x, half, money, date, time" in parquet.summary
    assert "categorical inputs: text (4 values), coded (" in parquet.summary
    assert "nothing (empty in training)" in parquet.summary


@pytest.mark.parametrize(
    ("values", "types", "kind"),
    [
        (lambda i: i % 9 / 4, {}, "regression"),
        (lambda i: i * 7 % 40, {}, "regression"),
        (lambda i: i % 2, {}, "binary"),
        (lambda i: i % 2 / 2, {}, "binary"),
        (lambda i: float(i % 2) if i % 5 else None, {}, "binary"),
        (lambda i: "true" if i % 3 else "false", {}, "binary"),
        (lambda i: i % 5, {}, "multi-class"),
        (lambda i: "abc"[i % 3], {}, "multi-class"),
        (lambda i: i % 5, {"task": "regression"}, "regression"),
        (lambda i: i % 2, {"task": "multi-class"}, "multi-class"),
        (lambda i: f"name {i}", {"task": "multi-class"}, "multi-class"),
    ],
)
def test_the_type_of_a_task(
    tmp_path: Path, values: Callable[[int], Any], types: dict[str, str], kind: str
) -> None:
    path = write_csv(tmp_path / "t.csv", rows(task=values))
    made = Tabular(data=path, tasks="task", types=types)
    names = {
        "regression": ["R²", "MAE", "RMSE"],
        "binary": ["accuracy", "AUROC", "F1"],
        "multi-class": ["accuracy", "macro F1"],
    }
    assert list(made.metrics["task"]) == names[kind]
    assert f"task task: {kind}, " in made.summary


def test_the_classes_of_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", rows(size=lambda i: (2, 10, 33)[i % 3]))
    assert "2 (35%), 10 (32%), 33 (32%)" in Tabular(data=path, tasks="size").summary


def test_uninformative_columns_are_left_out_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = rows(
        **{"": lambda i: 7 * i % 41, "id": lambda i: 100 + i, "same": lambda i: "a"},
        zip=lambda i: 53111 + i % 3,
    )
    path = write_csv(tmp_path / "t.csv", table)
    with caplog.at_level(logging.INFO, "samo"):
        made = Tabular(data=path, tasks="y", types={"zip": "categorical"})
    assert caplog.messages == [made.summary]
    assert "numeric inputs: x\n  categorical inputs: zip (3 values)" in made.summary
    left_out = " (an index without a name), id (a row counter), same (constant in training)"
    assert f"left out: {left_out}" in made.summary
    kept = Tabular(data=path, tasks="y", types={"id": "numeric"}, inputs=["id"])
    assert "numeric inputs: id\n" in kept.summary


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    table = [
        {"a.b": i % 2, "type": i % 3, "forward": i % 5 / 3, "x, y": i * i % 7} for i in range(N)
    ]
    made = Tabular(data=write_csv(tmp_path / "t.csv", table), tasks=["a.b", "type", "x, y"])
    batch = next(iter(made.batches("train", made.tasks, 8)))
    assert set(made.losses(made.model(), batch, made.tasks)) == {"a.b", "type", "x, y"}
    assert Tabular(data=tmp_path / "t.csv", tasks="x, y").tasks == ("x, y",)


def test_markers_of_missing_values(tmp_path: Path) -> None:
    table = rows(
        z=lambda i: None if i % 3 == 0 else i % 10, y=lambda i: None if i % 4 == 0 else i % 9 / 4
    )
    marked = [
        {
            "x": r["x"],
            "y": -999 if r["y"] is None else r["y"],
            "z": "?" if r["z"] is None else r["z"],
        }
        for r in table
    ]
    ordered = [{"x": r["x"], "y": r["y"], "z": r["z"]} for r in table]
    a = Tabular(data=write_csv(tmp_path / "a.csv", ordered), tasks="y")
    b = Tabular(data=write_csv(tmp_path / "b.csv", marked), tasks="y", missing=["?", -999])
    assert same(a, b)
    c = Tabular(data=write_csv(tmp_path / "c.csv", ordered), tasks="y", missing="?")
    assert same(a, c)


def csv_of(**columns: Callable[[int], Any]) -> Callable[[Path], Path]:
    return lambda path: write_csv(path, rows(**columns))


def text(content: str | bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def parquet_of(**columns: Any) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        pq.write_table(pa.table(columns), path)
        return path

    return write


def truncated_parquet(path: Path) -> Path:
    write_parquet(path, rows())
    path.write_bytes(path.read_bytes()[:-20])
    return path


def numpy_file(path: Path) -> Path:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    return path


FAULTY_FILES = {
    "a path that is not there": (lambda path: path, "table does not exist. A CSV file (with"),
    "a directory": (lambda path: path.mkdir() or path, "table is a directory. A CSV file"),
    "empty": (text(""), "table is empty."),
    "only blank lines": (text("\n\n"), "table is empty."),
    "only a header": (text("x,y\n"), "table has 2 column names but no rows"),
    "no header": (
        text("1,2\n3,4\n"),
        "table has numbers in its first line instead of the columns'",
    ),
    "too few values": (
        text("x,y\n1,2\n3\n4,5\n"),
        "table, row 2: expected 2 values, found 1",
    ),
    "too many values": (
        text("x,y\n1,2\n3,4,5\n"),
        "table, row 2: expected 2 values, found 3",
    ),
    "the same name twice": (text("x,y,x \n1,2,3\n"), "table has 2 columns named 'x'"),
    "an open quote": (text('x,y\n1,2\n3,"4\n5,6\n'), "table, column 'y', row 2: a quote is not"),
    "not UTF-8": (text("x,y\nGr\xfcn,2\n".encode("latin-1")), "table is not UTF-8 text"),
    "not UTF-8 in the header": (text("x\xfc,y\n1,2\n".encode("latin-1")), "is not UTF-8 text"),
    "a pickle": (text(pickle.dumps({"x": [1]})), "table is a pickle, which is never loaded"),
    "a spreadsheet": (text(b"PK\x03\x04...."), "table is a zip archive"),
    "an array of NumPy": (numpy_file, "table is a NumPy array"),
    "binary": (text(b"x,y\n\0\0\0\1"), "table is not text"),
    "Parquet, truncated": (truncated_parquet, "table is a damaged Parquet file: "),
    "Parquet, no rows": (parquet_of(x=pa.array([], pa.int8())), "has 1 column names but no rows"),
}


@pytest.mark.parametrize("case", FAULTY_FILES)
def test_invalid_files_raise_errors(tmp_path: Path, case: str) -> None:
    write, message = FAULTY_FILES[case]
    path = write(tmp_path / "table")
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as caught:
        Tabular(data=path, tasks="y")
    assert str(path) in str(caught.value)


def test_a_damaged_archive_raises_an_error(tmp_path: Path) -> None:
    path = text("x,y\n1,2\n")(tmp_path / "t.csv.gz")
    with pytest.raises(OSError, match=r"t\.csv\.gz cannot be read: .*incorrect header"):
        Tabular(data=path, tasks="y")


FAULTY_COLUMNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a text among numbers": (
        csv_of(z=lambda i: "four" if i == 16 else i % 11),
        {},
        "table, column 'z', row 17: 'four' is not a number, while 97.5% of the column are",
    ),
    "two, in a task": (
        csv_of(y=lambda i: "n.a." if i in {16, 20} else i % 11 / 4),
        {},
        "table, column 'y', row 17: 'n.a.' is not a number, while 95.0% of the column are "
        '(nor are 1 others). Correct the file, or set missing=["n.a."]',
    ),
    "a text where numbers are declared": (
        csv_of(z=lambda i: "abc"[i % 3]),
        {"types": {"z": "numeric"}},
        "table, column 'z', row 1: 'a' is not a number, as its type requires",
    ),
    "classes declared a regression": (
        csv_of(y=lambda i: "abc"[i % 3]),
        {"types": {"y": "regression"}},
        "table, column 'y', row 1: 'a' is not a number, as its type requires",
    ),
    "infinite": (
        csv_of(z=lambda i: "-inf" if i == 7 else i % 11),
        {},
        "table, column 'z', row 8: -inf is not a finite number",
    ),
    "infinite in Parquet": (
        parquet_of(x=[1.0, 2.0, float("inf")] * 10, y=[1, 2, 3] * 10),
        {},
        "table, column 'x', row 3: inf is not a finite number",
    ),
    "too large": (
        csv_of(z=lambda i: 1e300 * (i % 5)),
        {},
        "table, column 'z', row 5: 4e+300 cannot be standardised",
    ),
    "names": (
        csv_of(name=lambda i: f"Mr {i}", remark=lambda i: f"no. {i}"),
        {},
        "nearly all values differ in name, remark. Leave out names and remarks: "
        'ignore=["name", "remark"]',
    ),
    "names as a task": (
        csv_of(y=lambda i: f"Mr {i}"),
        {},
        "table: task 'y' has 40 different strings in 40 rows, which are unlikely to be classes",
    ),
    "lists": (
        parquet_of(x=[[1], [2]] * 10, y=[1, 2] * 10),
        {},
        "table: column 'x' has type list<element: int64>",
    ),
    "a task without labels": (
        csv_of(y=lambda i: None),
        {},
        "table: task 'y' has no labels: no row has a value",
    ),
    "a constant task": (
        csv_of(y=lambda i: "yes" if i % 2 else None),
        {},
        "table: task 'y' has nothing to learn: all its labels are equal",
    ),
    "three classes declared binary": (
        csv_of(y=lambda i: "abc"[i % 3]),
        {"types": {"y": "binary"}},
        "table: task 'y' cannot be binary: it has 3 different labels",
    ),
    "too few of a class": (
        csv_of(y=lambda i: "yes" if i < 2 else "no"),
        {},
        "table: task 'y' (binary) has 8 labels in the validation split, 1 of them different; 2 are",
    ),
    "no input that tells anything": (
        csv_of(x=lambda i: 1),
        {},
        "table has no informative input column: x is constant in training",
    ),
    "an unknown task": (
        csv_of(price=lambda i: i % 7),
        {"tasks": "y,prize"},
        "table: unknown column in tasks, 'prize', did you mean 'price'? Known: x, y, price",
    ),
    "no task": (csv_of(), {"tasks": []}, "tasks must name at least one column"),
    "tasks that are no names": (csv_of(), {"tasks": 3}, "tasks must be names of columns; found 3"),
    "a task twice": (csv_of(), {"tasks": ["y", "y"]}, "tasks names column 'y' twice"),
    "an unknown input": (csv_of(), {"inputs": "xx"}, "unknown column in inputs, 'xx', did you"),
    "a task as input": (csv_of(), {"inputs": "x,y"}, "column 'y' is in tasks and in inputs"),
    "an ignored input": (
        csv_of(),
        {"inputs": "x", "ignore": "x"},
        "column 'x' is in ignore and in inputs",
    ),
    "an unknown type": (
        csv_of(),
        {"types": {"y": "regresion"}},
        "unknown type 'regresion', did you mean 'regression'? Known: regression, binary, multi-",
    ),
    "an unknown type of an input": (
        csv_of(),
        {"types": {"x": "number"}},
        "column 'x': unknown type 'number', did you mean 'numeric'?",
    ),
    "types that are no mapping": (csv_of(), {"types": "y"}, "types must map columns to types"),
    "a type of a column out of use": (
        csv_of(z=lambda i: i % 3),
        {"types": {"z": "numeric"}, "ignore": "z"},
        "types has column 'z', which is neither a task nor an input",
    ),
    "a marker that is none": (csv_of(), {"missing": [None]}, "missing must be strings or numbers"),
    "an unknown split": (
        csv_of(part=lambda i: ("train", "test", "dev")[i % 3]),
        {"split_column": "part"},
        "table, column 'part', row 3: the split must be train, validation (or val) or test; found "
        "'dev'",
    ),
    "a row without split": (
        csv_of(part=lambda i: None if i == 4 else ("train", "val", "test")[i % 3]),
        {"split_column": "part"},
        "table, column 'part', row 5: the split must be train, validation (or val) or test; found "
        "nothing",
    ),
    "no test rows": (
        csv_of(part=lambda i: ("train", "val")[i % 2]),
        {"split_column": "part"},
        "table: no labelled row is 'test' in column 'part'",
    ),
    "the split as task": (
        csv_of(),
        {"split_column": "y"},
        "column 'y' is in tasks and in split_column",
    ),
    "no width": (csv_of(), {"width": 0}, "width must be an integer of at least 1; found 0"),
    "a broken depth": (csv_of(), {"depth": 1.5}, "depth must be an integer of at least 1; found"),
}


@pytest.mark.parametrize("case", FAULTY_COLUMNS)
def test_invalid_columns_and_options_raise_errors(tmp_path: Path, case: str) -> None:
    write, options, message = FAULTY_COLUMNS[case]
    path = write(tmp_path / "table")
    # As they come from the command line and from configurations: through JSON.
    given = json.loads(json.dumps({"data": str(path), "tasks": "y", **options}))
    with pytest.raises(ValueError, match=re.escape(message)):
        create("tabular", **given)


cells = st.sampled_from(
    [*"0123,", "a", '"', "\n", " b", "1e400", "5e-324", "NA", "inf", "\N{BELL}"]
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, cells), max_size=30), st.binary(max_size=40), st.booleans())
def test_any_file_is_read_or_rejected(
    tmp_path: Path, lines: list[tuple[str, str]], raw: bytes, binary: bool
) -> None:
    path = tmp_path / "table"
    content = "\n".join(["x,y", *map(",".join, [(str(i * i), "a") for i in range(9)] + lines)])
    path.write_bytes(raw if binary else content.encode())
    with suppress(ValueError):
        made = Tabular(data=path, tasks="y")
        losses = made.losses(made.model(), whole(made, "train"), ["y"])
        assert losses["y"].isfinite()
