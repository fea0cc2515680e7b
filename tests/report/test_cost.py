"""The tables and figures of what steps cost, from results that are made up."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import cast

from matplotlib.patches import Rectangle
from rich.console import Console

from samo.report import cost_table, memory_figure, time_figure, write_costs
from tests.cost.test_measure import crafted


def test_table_says_what_was_measured(tmp_path: Path) -> None:
    write_costs([crafted()], tmp_path)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    (header,) = [line for line in lines if line.startswith("| step ")]
    (line,) = [line for line in lines if line.startswith("| samo ")]
    names, cells = ([part.strip() for part in row.strip("|").split("|")] for row in (header, line))
    row = dict(zip(names, cells, strict=True))
    assert row["passes"] == "3+4/3"
    assert row["time"] == "12 s (9–21)"
    assert row["× plain"] == "6.00 (6.00–6.00)"
    assert row["× bare"] == "1.10 (1.10–1.10)"
    assert row["× plain memory"] == "9.00"
    assert row["+ m"] == "20.0"
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        (_, _, samo) = csv.DictReader(file)
    assert (samo["case"], samo["name"], samo["to_plain_median"]) == ("mlp", "samo", "6")
    assert samo["rounds"] == "3"


def test_the_table_has_no_column_for_bare_loops_that_were_not_timed(tmp_path: Path) -> None:
    results = crafted()
    for step in results["steps"].values():
        step["bare_seconds"] = []
    write_costs([results], tmp_path)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| × plain |" in text
    assert "| × bare |" not in text


def test_the_terminal_s_table_fits(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=(tmp_path / "x").open("w", encoding="utf-8"))
    console.print(cost_table(crafted()))
    console.file.close()
    assert "1.10" in console.export_text()
    assert "…" not in console.export_text()


def test_the_bars_are_the_ratios() -> None:
    figure = time_figure([crafted(), crafted("lenet")])
    assert figure is not None
    assert [axis.get_title().partition(":")[0] for axis in figure.axes] == ["mlp", "lenet"]
    widths = [cast(Rectangle, bar).get_width() for bar in figure.axes[0].patches]
    assert widths == [1.0, 2.0, 6.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "6"]


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    results = crafted()
    for step in results["steps"].values():
        step["seconds"] = []
    assert time_figure([results]) is None
    assert memory_figure([results]) is not None
    del results["steps"]["samo"]["peak_bytes"]
    figure = memory_figure([results])
    assert figure is not None
    assert len(figure.axes[0].patches) == 2
    assert [path.name for path in write_costs([results], tmp_path)] == ["memory-fairgrad.png"]


def test_figures_of_each_method(tmp_path: Path) -> None:
    figures = write_costs([crafted(), crafted(method="ls")], tmp_path)
    assert [path.stem for path in figures] == [
        "time-fairgrad",
        "memory-fairgrad",
        "time-ls",
        "memory-ls",
    ]
    assert all(path.exists() and path.with_suffix(".svg").exists() for path in figures)
