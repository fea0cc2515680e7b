"""The table: the same cells on the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table as RichTable

from samo.report.tables import NONE, Cell, Table, cell, fitting, rich, to_csv, to_markdown


def table(**attributes: object) -> Table:
    rows = [
        [Cell("ls"), cell(0.123456, ".2f"), Cell("1.00 ± 0.25", 1.0)],
        [Cell("mgda [odd]"), cell(None), Cell("2.00 ± 0.50", 2.0)],
    ]
    return Table("a title", ["method", "ρ", "longer head (%)"], rows, **attributes)  # type: ignore[arg-type]


def printed(made: RichTable, width: int = 200) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(made)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_columns_of_text_are_aligned_left_and_numbers_right() -> None:
    assert table().textual == [True, False, False]
    assert to_markdown(table()).splitlines() == [
        "| method | ρ | longer head (%) |",
        "| --- | ---: | ---: |",
        "| ls | 0.12 | 1.00 ± 0.25 |",
        "| mgda [odd] | – | 2.00 ± 0.50 |",
    ]


def test_csv_has_the_values_and_not_the_texts(tmp_path: Path) -> None:
    to_csv(tmp_path / "a.csv", table())
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(file)
    assert lines == [["ls", "0.123456", "1.0"], ["mgda [odd]", "", "2.0"]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_terminal_shows_every_text_as_it_is() -> None:
    quoted = [[Cell("[1] of a paper"), Cell(), Cell("3")]]
    text = printed(rich(table(quoted=quoted, notes=["One.", "[Two]."])))
    for word in ("a title", "mgda [odd]", "0.12", "1.00 ± 0.25", "[1] of a paper", "One. [Two]."):
        assert word in text


def test_the_first_table_that_fits_is_shown_closely_set_if_need_be() -> None:
    narrow = Table("", ["method"], [[Cell("ls")]])
    loose, close = printed(fitting([table()], 60)), printed(fitting([table()], 32))
    assert "longer head (%)" in loose
    assert "1.00 ± 0.25" in loose
    assert "longer head" not in close  # a word per line
    assert "1.00±0.25" in close
    assert max(map(len, close.splitlines())) <= 32
    assert "1.00" not in printed(fitting([table(), narrow], 10))


def test_rows_that_share_their_first_cell_are_grouped() -> None:
    rows = [[Cell(name)] for name in ("a", "a", "b", "c")]
    lines = [printed(rich(Table("", ["x"], rows, grouped=g))).splitlines() for g in (True, False)]
    assert len(lines[0]) - len(lines[1]) == 2


@pytest.mark.parametrize(
    ("made", "key", "datum"),
    [
        (cell(2.5, ".0f"), "2.5", 2.5),
        (cell("text"), "text", "text"),
        (cell(None), "", None),
        (cell(""), "", None),
        (Cell("1/2", 1), "1", 1),
        (Cell(NONE, mark="wide"), "", None),
    ],
)
def test_a_cell_is_sorted_by_its_value(made: Cell, key: str, datum: object) -> None:
    assert (made.key, made.datum) == (key, datum)
