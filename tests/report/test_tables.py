"""The table, as it is printed and as it is written."""

from __future__ import annotations

import csv
import json
import re
import statistics
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from samo.report import markdown, read, rich_table, summarize, write_csv
from samo.training import RunError, compare, plan, train
from tests.report.crafted import comparison, entry, failed


def test_the_table_against_numbers_worked_out_from_the_files(tmp_path: Path) -> None:
    cells = plan("tests.toy:Toy", ["mgda"], ["erm", "gsam"], [0.02, 0.9], seeds=2, epochs=2)
    for cell in cells:
        train(cell.config, tmp_path / cell.path)
    assert compare(cells, tmp_path) == {}  # all are finished: it writes down what belongs to it
    summary = summarize(read(tmp_path))
    write_csv(tmp_path / "table.csv", summary)
    with (tmp_path / "table.csv").open() as file:
        rows = {(row["method"], row["sharpness"]): row for row in csv.DictReader(file)}
    assert list(rows) == [("stl", "erm"), ("mgda", "erm"), ("mgda", "gsam")]

    def results(path: str) -> list[dict]:
        files = sorted(tmp_path.glob(f"{path}/seed-*/results.json"))
        assert len(files) == 2
        return [json.loads(file.read_text()) for file in files]

    baseline = {
        "sign": [r["selected"]["test"]["sign"]["accuracy"] for r in results("stl/sign")],
        "size": [r["selected"]["test"]["size"]["error"] for r in results("stl/size")],
    }
    b = {task: sum(values) / 2 for task, values in baseline.items()}
    assert float(rows["stl", "erm"]["sign_accuracy_mean"]) == pytest.approx(b["sign"])
    scores = {
        rho: sum(r["selected"]["score"] for r in results(f"mgda/gsam/rho-{rho:g}"))
        for rho in (0.02, 0.9)
    }
    rho = max(scores, key=lambda r: scores[r])
    for sharpness, path in (("erm", "mgda/erm"), ("gsam", f"mgda/gsam/rho-{rho:g}")):
        row = rows["mgda", sharpness]
        tests = [r["selected"]["test"] for r in results(path)]
        accuracy = [t["sign"]["accuracy"] for t in tests]
        error = [t["size"]["error"] for t in tests]
        assert float(row["sign_accuracy_mean"]) == pytest.approx(sum(accuracy) / 2)
        assert float(row["sign_accuracy_std"]) == pytest.approx(statistics.stdev(accuracy))
        assert float(row["size_error_mean"]) == pytest.approx(sum(error) / 2)
        drops = [
            100 * ((b["sign"] - a) / b["sign"] + (e - b["size"]) / b["size"]) / 2
            for a, e in zip(accuracy, error, strict=True)
        ]
        assert float(row["delta_m_mean"]) == pytest.approx(sum(drops) / 2)
        assert float(row["delta_m_std"]) == pytest.approx(statistics.stdev(drops))
        assert row["average_mean"] == ""  # accuracy and error have no average
    assert rows["mgda", "gsam"]["rho"] == str(rho)
    assert float(rows["mgda", "erm"]["step_ratio"]) == 1.0


def test_markdown_has_the_numbers_and_says_what_they_are() -> None:
    lines = markdown(summarize(comparison())).splitlines()
    assert lines[0] == (
        "| method | sharpness | ρ | left accuracy (%) ↑ | right accuracy (%) ↑ | average "
        "| MR ↓ | Δm (%) ↓ | step time |"
    )
    assert re.fullmatch(r"\|( -+:? \|)+", lines[1])
    assert lines[2].startswith(
        "| STL | – | – | 92.00 ± 1.00 | 86.00 ± 1.00 | 89.00 ± 1.00 | – | – |"
    )
    # ls with gsam: ρ = 0.05 has the better score; left 88.05, 89.05, 90.05; right 82, 81, 80.
    assert lines[4].startswith("| ls | gsam | 0.05 | 89.05 ± 1.00 | 81.00 ± 1.00 | 85.03 ± 0.00 |")
    assert lines[4].endswith("| 2.00 × |")
    assert lines[5].startswith("| ls | samo | 0.2 |")
    (said,) = [line for line in lines if line.startswith("Test data")]
    assert "over 3 seeds" in said
    assert "ρ is chosen from {0.05, 0.2} on validation data" in said


def test_what_is_missing_is_said() -> None:
    text = markdown(summarize([entry("ls"), failed("ls", "gsam", 0.1)]))
    assert "| ls | gsam | – | – | – | – | – | – | – |" in text
    assert "Incomplete: ls with gsam, 1 run is missing or failed." in text
    assert "one seed" in text


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_off_on_a_terminal(width: int) -> None:
    summary = summarize(comparison())
    console = Console(file=StringIO(), width=width)
    console.print(rich_table(summary, width=width))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert max(len(line) for line in printed.splitlines()) <= width
    for line in markdown(summary).splitlines()[2:9]:
        for word in (part.strip() for part in line.strip("|").split("|")):
            assert word in printed or word.replace(" ± ", "±") in printed


def test_a_directory_without_a_comparison(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"compare\.json cannot be read"):
        read(tmp_path)
