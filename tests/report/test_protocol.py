"""Mean ranks, paired differences, and published numbers beside one's own."""

from __future__ import annotations

import csv
import statistics
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from samo.benchmarks import published_baseline
from samo.cli._results import published_delta_m
from samo.metrics import delta_m
from samo.report import (
    Difference,
    Entry,
    Spread,
    Summary,
    difference_table,
    markdown,
    rich_table,
    summarize,
    write,
)
from tests.report.crafted import comparison, entry


def ranks(summary: Summary) -> dict[tuple[str, str], float | None]:
    return {(row.method, row.sharpness): row.mean_rank for row in summary.rows}


def changes(summary: Summary) -> dict[tuple[str, tuple[str, ...]], Difference]:
    return {(d.preset, d.methods): d for d in summary.differences}


def test_mean_ranks_by_hand() -> None:
    scores = {"ls": (90.0, 70.0), "mgda": (80.0, 80.0), "uw": (90.0, 60.0), "dwa": (70.0, 90.0)}
    stl = [entry(task=t, test=(99.0,)) for t in ("left", "right")]
    found = ranks(summarize([*stl, *(entry(m, test=t) for m, t in scores.items())]))
    # left: ls and uw share 1 and 2, mgda 3, dwa 4; right: dwa 1, mgda 2, ls 3, uw 4.
    assert found == {
        ("stl", "erm"): None,
        ("ls", "erm"): 2.25,
        ("mgda", "erm"): 2.5,
        ("uw", "erm"): 2.75,
        ("dwa", "erm"): 2.5,
    }
    reverse = [entry(m, test=t, higher_is_better=False) for m, t in scores.items()]
    assert ranks(summarize(reverse))["ls", "erm"] == (3.5 + 2) / 2


def test_one_row_has_no_rank() -> None:
    assert ranks(summarize([entry("ls")])) == {("ls", "erm"): None}


def test_ranks_are_by_means_over_the_seeds() -> None:
    entries = [entry("ls", seed=s, test=t) for s, t in enumerate([(90.0, 50.0), (70.0, 50.0)])]
    entries += [entry("uw", seed=s, test=t) for s, t in enumerate([(79.0, 51.0), (79.0, 51.0)])]
    assert ranks(summarize(entries)) == {("ls", "erm"): 1.5, ("uw", "erm"): 1.5}


def test_differences_are_paired_by_seed_and_averaged_over_methods_first() -> None:
    values = {  # by method and preset: left and right by seed
        ("ls", "erm"): [(80.0, 70.0), (90.0, 70.0), (70.0, 70.0)],
        ("ls", "gsam"): [(82.0, 70.0), (94.0, 70.0), (70.0, 70.0)],  # average +1, +2, 0
        ("uw", "erm"): [(60.0, 60.0), (60.0, 60.0), (60.0, 60.0)],
        ("uw", "gsam"): [(60.0, 60.0), (64.0, 60.0), (68.0, 60.0)],  # 0, +2, +4
    }
    entries = [
        entry(m, p, None if p == "erm" else 0.1, seed, test=test)
        for (m, p), tests in values.items()
        for seed, test in enumerate(tests)
    ]
    found = changes(summarize(entries))
    assert set(found) == {("gsam", ("ls",)), ("gsam", ("uw",)), ("gsam", ("ls", "uw"))}
    for methods, expected in (
        (("ls",), (1.0, 2.0, 0.0)),
        (("uw",), (0.0, 2.0, 4.0)),
        (("ls", "uw"), (0.5, 2.0, 2.0)),
    ):
        spread = found["gsam", methods].average
        assert spread is not None
        assert spread.values == pytest.approx(expected)
        reference = stats.ttest_1samp(expected, 0).confidence_interval(0.95)
        assert spread.interval is not None
        assert spread.mean - spread.interval == pytest.approx(reference.low)
        assert spread.mean + spread.interval == pytest.approx(reference.high)
    # 95 % of Student's t with two degrees of freedom lies within 4.3027.
    assert found["gsam", ("ls",)].average.interval == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # type: ignore[union-attr]


# Of numbers in single precision neither the squares of differences underflow nor their sums cancel.
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=9, unique=True))
def test_the_interval_is_scipy_s(values: list[float]) -> None:
    spread = Spread(tuple(values))
    low, high = stats.t.interval(0.95, len(values) - 1, scale=stats.sem(values))
    assert spread.interval == pytest.approx((high - low) / 2, rel=1e-9)


def test_seeds_that_one_side_lacks_are_left_out() -> None:
    entries = [entry("ls", seed=s, test=(80.0 + s, 80.0)) for s in (0, 1, 2)]
    entries += [entry("ls", "gsam", 0.1, s, test=(84.0, 80.0)) for s in (2, 0)]
    (difference,) = summarize(entries).differences
    assert difference.average is not None
    assert difference.average.values == (2.0, 1.0)  # of seeds 0 and 2


def test_without_plain_training_there_is_nothing_to_compare_with() -> None:
    summary = summarize([entry("ls", "gsam", 0.1), entry("mgda")])
    assert summary.differences == ()
    assert difference_table(summary) is None


def test_differences_of_delta_m_are_those_of_the_rows() -> None:
    summary = summarize(comparison())
    rows = {(r.method, r.sharpness): r for r in summary.rows}
    found = changes(summary)["samo", ("ls", "fairgrad")].delta_m
    assert found is not None
    expected = []
    for seed in range(3):
        pairs = [(rows[m, "samo"].delta_m, rows[m, "erm"].delta_m) for m in ("ls", "fairgrad")]
        expected.append(statistics.fmean(a.values[seed] - b.values[seed] for a, b in pairs))  # type: ignore[union-attr]
    assert found.values == pytest.approx(expected)


def test_differences_are_written_and_printed(tmp_path: Path) -> None:
    summary = summarize(comparison())
    write(summary, tmp_path)
    text = (tmp_path / "table.md").read_text()
    # samo adds 1 + ρ = 1.2 on the left and 1 on the right, in every run.
    assert "| samo | ls, fairgrad | 3 | +1.10 ± 0.00 | −" in text
    assert "95 % confidence interval" in text
    with (tmp_path / "differences.csv").open() as file:
        rows = {(r["sharpness"], r["methods"]): r for r in csv.DictReader(file)}
    assert float(rows["samo", "ls fairgrad"]["average_mean"]) == pytest.approx(1.1)
    assert len(rows) == 6
    console = Console(file=StringIO(), width=100)
    table = difference_table(summary)
    assert table is not None
    console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split()[:3] for line in printed.splitlines() if "fairgrad" in line] == [
        ["gsam", "ls,", "fairgrad"],
        ["samo", "ls,", "fairgrad"],
    ]


# Published numbers.

METRICS = {
    "segmentation": {"mIoU": (74.0, "%", True), "pixel accuracy": (93.0, "%", True)},
    "depth": {"absolute error": (0.0131, "", False), "relative error": (28.0, "", False)},
}


def cityscapes(**changes: Any) -> Entry:
    """A run of a benchmark that has published numbers."""
    crafted = entry(**changes)
    assert crafted.results is not None
    test = {t: {n: v for n, (v, *_) in m.items()} for t, m in METRICS.items()}
    about = {
        t: {n: {"unit": u, "higher_is_better": up} for n, (_, u, up) in m.items()}
        for t, m in METRICS.items()
    }
    selected = {**crafted.results["selected"], "test": test}
    results = {**crafted.results, "metrics": about, "selected": selected}
    return Entry({**crafted.config, "benchmark": "cityscapes"}, crafted.baseline, results)


def test_without_single_task_runs_delta_m_is_against_the_published_ones() -> None:
    summary = summarize([cityscapes()])
    found = summary.rows[0].delta_m
    assert found is not None
    values = [74.0, 93.0, 0.0131, 28.0]
    expected = delta_m(values, [74.01, 93.16, 0.0125, 27.77], [True, True, False, False])
    assert found.values == pytest.approx((expected,))
    assert "published single-task numbers (SAMO, arXiv 2507.07883, Table 4)" in markdown(summary)
    assert [row.method for row in summary.rows] == ["ls"]


def test_a_single_run_has_its_delta_m_too() -> None:
    run = cityscapes()
    assert run.results is not None
    config = {**run.config, "benchmark": "cityscapes"}
    line = published_delta_m({**run.results, "config": config})
    spread = summarize([run]).rows[0].delta_m
    assert line == (
        f"Δm against published single-task numbers (SAMO, arXiv 2507.07883, Table 4): {spread} %"
    )
    assert published_delta_m({**run.results, "config": {**config, "benchmark": "digits"}}) is None


def test_own_single_task_runs_come_first() -> None:
    run = cityscapes()
    summary = summarize([Entry(run.config, True, run.results), run])
    assert summary.baseline == ""
    assert summary.rows[1].delta_m is not None
    assert summary.rows[1].delta_m.values == (0.0,)
    assert "published" not in markdown(summary)


def test_other_metrics_or_units_have_no_published_baseline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert published_baseline("crafted") is None
    assert summarize([entry("ls")]).baseline == ""
    depth = METRICS["depth"]
    monkeypatch.setitem(METRICS, "depth", {**depth, "absolute error": (1.31, "cm", False)})
    assert summarize([cityscapes()]).rows[0].delta_m is None
    relative = {"relative error": depth["relative error"]}
    monkeypatch.setitem(METRICS, "depth", relative)
    assert summarize([cityscapes()]).baseline == ""


def test_metrics_that_were_not_published_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    before = summarize([cityscapes()]).rows[0].delta_m
    depth = {**METRICS["depth"], "another": (1.0, "", False)}
    monkeypatch.setitem(METRICS, "depth", depth)
    summary = summarize([cityscapes()], published=True)
    assert summary.rows[0].delta_m == before
    assert len(summary.columns) == 5
    assert {q.label for q in summary.quoted} >= {"SAMO-LS", "G-SAM-LS", "F-IMTL"}
    assert all(len(q.metrics) == 4 for q in summary.quoted)


def test_published_rows_stand_beside_with_their_source() -> None:
    summary = summarize([cityscapes(), cityscapes(method="fairgrad")], published=True)
    text = markdown(summary)
    line = "| SAMO-FairGrad | [1] | – | 74.37 | 93.14 | 0.0129 | 26.30 | – | – | -0.62 | – |"
    assert text.count(line) == 1  # though Table 12 has it too
    assert "| G-SAM-LS | [2] | – | 75.78 |" in text
    assert "| STL | [1] |" in text
    assert "[1] SAMO, arXiv 2507.07883, Table 4." in text
    assert "[2] SAMO, arXiv 2507.07883, Table 12." in text
    assert "| F-IMTL | [4] |" in text
    assert "[4] F-MTL, arXiv 2211.13723 (" in text
    assert "| 0.0131 |" in text  # and not 0.01
    for width in (80, 200):
        console = Console(file=StringIO(), width=width)
        console.print(rich_table(summary, width=width))
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert "[1]" in printed
        assert "…" not in printed
        assert max(map(len, printed.splitlines())) <= width
        assert ("No room for" in " ".join(printed.split())) == (width == 80)


def test_where_no_table_has_the_metrics_there_is_delta_m_at_least() -> None:
    crafted = entry("ls")
    one = Entry({**crafted.config, "benchmark": "celeba"}, False, crafted.results)
    quoted = {(q.label, q.source): q for q in summarize([one], published=True).quoted}
    assert quoted["SAMO-FairGrad", 1].delta_m == "-0.74"
    assert quoted["L-SAM-LS", 0].delta_m == "2.90"
    assert {label for label, _ in quoted} >= {"RLW", "FAMO"}
    assert summarize([entry("ls")], published=True).quoted == ()
