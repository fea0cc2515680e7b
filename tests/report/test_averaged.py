"""Arms of averaged weights, and contrasts that are named, in every output of a comparison."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from samo.records import RunError
from samo.report import Entry, summarize, write
from samo.report.figures import course, intervals, learning_curves, run_costs
from samo.report.figures.style import look
from samo.report.tables import contrasts_table, markdown, results_table
from tests.report.crafted import entry

EMA = {"erm": 2.0, "gsam": 0.5}
"""What averaging adds to the accuracy of each preset."""


def entries() -> list[Entry]:
    runs = [
        entry(task=task, seed=seed, test=(90.0,), ema=1.0)
        for seed in range(3)
        for task in ("left", "right")
    ]
    for method in ("ls", "mgda"):
        for seed in range(3):
            for preset, more in (("erm", 0.0), ("gsam", 1.0)):
                test = (80.0 + seed + more * (1 + 0.1 * seed), 70.0)
                rho = 0.1 if preset == "gsam" else None
                runs.append(entry(method, preset, rho, seed, test=test, ema=EMA[preset]))
    return runs


def test_every_row_has_one_with_averaged_weights() -> None:
    summary = summarize(entries())
    rows = {row.names: row for row in summary.rows}
    assert list(rows) == [
        ("STL", None),
        ("STL", "+ema"),
        *((m, p) for m in ("ls", "mgda") for p in ("erm", "erm+ema", "gsam", "gsam+ema")),
    ]
    assert summary.presets == ["erm", "erm+ema", "gsam", "gsam+ema"]
    for (method, preset), row in rows.items():
        if method != "STL" and row.weights == "ema":
            raw = rows[method, row.sharpness]
            assert row.average is not None
            assert raw.average is not None
            more = EMA[row.sharpness]
            assert row.average.values == pytest.approx([v + more for v in raw.average.values])
            assert preset == f"{row.sharpness}+ema"
            assert row.step_ratio == 1.25  # 2 ms a step and 0.5 ms an update, over 2 ms
            # The reference of Δm is single-task training with raw weights.
            expected = [d - 100 * more / 90 for d in raw.delta_m.values]  # type: ignore[union-attr]
            assert row.delta_m is not None
            assert row.delta_m.values == pytest.approx(expected)


def test_differences_are_to_erm_with_raw_weights() -> None:
    found = {(d.preset, d.methods): d.average for d in summarize(entries()).differences}
    both = ("ls", "mgda")
    assert found["erm+ema", both].values == pytest.approx((2.0, 2.0, 2.0))  # type: ignore[union-attr]
    assert found["gsam", both].values == pytest.approx((0.5, 0.55, 0.6))  # type: ignore[union-attr]
    assert ("erm", both) not in found


def test_contrasts_are_paired_by_seed() -> None:
    named = ["erm+ema:gsam", "gsam+ema:erm+ema", "mgda/gsam:ls/erm+ema", "lsam:erm"]
    summary = summarize(entries(), named=named)
    found = {(d.preset, d.reference, d.methods): d.average for d in summary.contrasts}
    assert len(found) == 3 + 3 + 1 + 1
    for methods in (("ls",), ("mgda",), ("ls", "mgda")):
        spread = found["erm+ema", "gsam", methods]
        assert spread.values == pytest.approx((1.5, 1.45, 1.4))  # type: ignore[union-attr]
    spread = found["mgda/gsam", "ls/erm+ema", ("mgda",)]
    assert spread.values == pytest.approx((-1.5, -1.45, -1.4))  # type: ignore[union-attr]
    assert found["lsam", "erm", ()] is None
    table = contrasts_table(summary)
    # The interval is 4.303 · 0.05 / √3.
    assert table.texts[0][:-1] == ["erm+ema − gsam", "ls", "3", "+1.45 ± 0.12"]
    assert table.texts[-1] == ["lsam − erm", "–", "0", "–", "–"]
    assert "4 contrasts were looked at, besides the 9 differences to erm" in table.notes[0]


@pytest.mark.parametrize("contrast", ["erm", "erm:", ":erm", "a:b:c", "ls/erm:gsam"])
def test_a_malformed_contrast(contrast: str) -> None:
    with pytest.raises(RunError, match="a contrast must be ARM:ARM"):
        summarize(entries(), named=[contrast])


def test_files_and_figures_have_both(tmp_path: Path) -> None:
    summary = summarize(entries(), named=["erm+ema:gsam"])
    write(summary, tmp_path)
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["weights"] for row in rows] == ["raw", "ema"] * 5
    with (tmp_path / "differences.csv").open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["sharpness"], last["reference"]) == ("erm+ema", "gsam")
    assert float(last["average_mean"]) == pytest.approx(1.45)
    text = markdown(summary)
    assert "| ls | gsam+ema | 0.1 |" in text
    assert "| erm+ema − gsam | ls, mgda | 3 | +1.45 ± 0.12 |" in text
    assert "+ema: the exponential moving average" in " ".join(results_table(summary).notes)
    for draw in (learning_curves, intervals, run_costs):
        figure = draw(summary)
        assert figure is not None
    labels = {handle.get_label() for handle in learning_curves(summary).legends[0].get_lines()}
    assert {"erm", "erm+ema", "gsam", "gsam+ema"} <= labels
    assert course(summary) is None  # nothing was logged


def test_looks_of_arms_of_a_preset_differ() -> None:
    names = ("gsam", "gsam+ema", "gsam@representation", "gsam@representation+ema")
    assert len({look(name).fill for name in names}) == 4
    assert len({look(name).colour for name in names}) == 1
