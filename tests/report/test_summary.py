"""The numbers of a comparison's table."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from samo.report import Entry, Row, Summary, summarize
from tests.report.crafted import comparison, entry, failed


def row(summary: Summary, method: str, sharpness: str = "erm") -> Row:
    (found,) = [r for r in summary.rows if (r.method, r.sharpness) == (method, sharpness)]
    return found


def test_rho_is_chosen_on_validation_data_and_never_on_test_data() -> None:
    entries = [
        entry("ls", "gsam", rho, seed, score=score + seed, test=test)
        for seed in (0, 1)
        for rho, score, test in (
            (0.05, 70.0, (99.0, 99.0)),  # best on test data
            (0.1, 72.0, (50.0, 50.0)),  # best on validation data
            (0.2, 71.0, (98.0, 98.0)),
        )
    ]
    found = row(summarize(entries), "ls", "gsam")
    assert found.rho == 0.1
    assert found.metrics["left", "accuracy"].values == (50.0, 50.0)


def test_rho_is_chosen_by_the_mean_over_the_seeds() -> None:
    scores = {(0.05, 0): 70.0, (0.05, 1): 80.0, (0.1, 0): 76.0, (0.1, 1): 76.0}
    entries = [entry("ls", "gsam", rho, seed, score=s) for (rho, seed), s in scores.items()]
    assert row(summarize(entries), "ls", "gsam").rho == 0.1


def test_rho_is_chosen_by_the_seeds_that_were_planned_at_every_rho() -> None:
    """More seeds at one ρ, good, bad or failed, change what is reported, not the choice."""
    scores = {0.05: (70.0, 80.0), 0.1: (76.0, 76.0), 0.2: (60.0, 91.0)}
    both = [
        entry("ls", "gsam", r, i, score=s) for r, of in scores.items() for i, s in enumerate(of)
    ]
    for extra in (0.05, 0.1, 0.2):
        more = [entry("ls", "gsam", extra, 2, score=0.0), entry("ls", "gsam", extra, 3, score=99.0)]
        summary = summarize([*both, *more, failed("ls", "gsam", extra, 4)])
        found = row(summary, "ls", "gsam")
        assert found.rho == 0.1
        assert len(found.runs) == (4 if extra == 0.1 else 2)
        assert {rho: s.values for rho, s in summary.grid["ls", "gsam"].items()} == scores
    apart = [entry("ls", "gsam", 0.05, 0, score=70.0), entry("ls", "gsam", 0.1, 1, score=71.0)]
    assert row(summarize(apart), "ls", "gsam").rho == 0.1


def test_rho_is_chosen_for_each_method_and_preset_by_itself() -> None:
    best = {("ls", "gsam"): 0.1, ("ls", "samo"): 0.05, ("mgda", "gsam"): 0.05}
    entries = [
        entry(*arm, rho, score=70.0 + (rho == chosen))
        for arm, chosen in best.items()
        for rho in (0.05, 0.1)
    ]
    summary = summarize(entries)
    assert {arm: row(summary, *arm).rho for arm in best} == best


def test_of_two_rho_that_are_equally_good_the_smaller_is_chosen() -> None:
    entries = [entry("ls", "gsam", rho, score=70.0) for rho in (0.2, 0.05, 0.1)]
    assert row(summarize(entries), "ls", "gsam").rho == 0.05


def test_a_rho_with_a_failed_run_is_chosen_only_if_there_is_no_other() -> None:
    better = [entry("ls", "gsam", 0.1, 0, score=90.0), failed("ls", "gsam", 0.1, 1)]
    whole = [entry("ls", "gsam", 0.05, seed, score=70.0) for seed in (0, 1)]
    found = row(summarize(better + whole), "ls", "gsam")
    assert (found.rho, len(found.runs), found.unfinished) == (0.05, 2, 1)
    found = row(summarize([*better, failed("ls", "gsam", 0.05, 0)]), "ls", "gsam")
    assert (found.rho, len(found.runs), found.unfinished) == (0.1, 1, 2)


def test_an_arm_without_a_finished_run_has_a_row_without_numbers() -> None:
    summary = summarize([entry("ls"), failed("ls", "gsam", 0.1)])
    found = row(summary, "ls", "gsam")
    assert (found.metrics, found.average, found.delta_m) == ({}, None, None)
    assert (found.unfinished, found.step_ratio, found.rho) == (1, None, None)


def test_means_and_deviations_by_hand() -> None:
    entries = [entry("ls", seed=s, test=t) for s, t in enumerate([(90.0, 70.0), (94.0, 72.0)])]
    found = row(summarize(entries), "ls")
    left = found.metrics["left", "accuracy"]
    assert left.mean == 92.0
    assert left.std == pytest.approx(8**0.5)  # of 90 and 94: sqrt((4 + 4) / (2 - 1))
    assert str(left) == "92.00 ± 2.83"
    assert found.average is not None
    assert found.average.values == (80.0, 83.0)


def test_one_seed_has_no_deviation() -> None:
    found = row(summarize([entry("ls")]), "ls")
    assert found.metrics["left", "accuracy"].std is None
    assert str(found.metrics["left", "accuracy"]) == "90.00"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_delta_m_is_against_the_mean_of_the_baselines(higher_is_better: bool) -> None:
    direction: Any = {"higher_is_better": higher_is_better}
    baselines = [
        entry(task=task, seed=seed, test=(level,), **direction)
        for seed, levels in enumerate([(90.0, 40.0), (110.0, 60.0)])  # means 100 and 50
        for task, level in zip(("left", "right"), levels, strict=True)
    ]
    runs = [entry("ls", seed=s, test=t, **direction) for s, t in enumerate([(90, 50), (110, 60)])]
    found = row(summarize(baselines + runs), "ls").delta_m
    assert found is not None
    sign = -1 if higher_is_better else 1
    assert found.values == pytest.approx((sign * (-10 + 0) / 2, sign * (10 + 20) / 2))


def test_without_baselines_there_is_no_delta_m() -> None:
    assert row(summarize([entry("ls")]), "ls").delta_m is None


def test_a_baseline_of_each_task_is_needed() -> None:
    summary = summarize([entry(task="left", test=(90.0,)), entry("ls")])
    assert row(summary, "ls").delta_m is None
    assert row(summary, "stl").metrics == {}


def test_the_row_of_baselines_has_each_task_s_own_runs() -> None:
    found = row(summarize(comparison()), "stl")
    assert found.metrics["left", "accuracy"].values == (91.0, 92.0, 93.0)
    assert found.metrics["right", "accuracy"].values == (85.0, 86.0, 87.0)
    assert found.average is not None
    assert found.average.values == (88.0, 89.0, 90.0)


def test_the_time_of_a_step_is_relative_to_plain_training_with_the_same_method() -> None:
    entries = [
        entry("ls", step_ms=2.0),
        entry("ls", "gsam", 0.1, step_ms=3.0),
        entry("mgda", step_ms=4.0, seed=0),
        entry("mgda", step_ms=6.0, seed=1),
        entry("mgda", "gsam", 0.1, step_ms=10.0),
        entry("upgrad", "gsam", 0.1, step_ms=10.0),
    ]
    summary = summarize(entries)
    ratios = {(r.method, r.sharpness): r.step_ratio for r in summary.rows}
    assert ratios == {
        ("ls", "erm"): 1.0,
        ("ls", "gsam"): 1.5,
        ("mgda", "erm"): 1.0,
        ("mgda", "gsam"): 2.0,
        ("upgrad", "gsam"): None,
    }


def test_metrics_of_different_kinds_have_no_average() -> None:
    one = entry("ls")
    assert one.results is not None
    metrics = {**one.results["metrics"], "right": {"loss": {"higher_is_better": False, "unit": ""}}}
    other = Entry(one.config, False, {**one.results, "metrics": metrics})
    assert row(summarize([other]), "ls").average is None


def test_the_grid_holds_the_validation_scores() -> None:
    summary = summarize(comparison())
    assert set(summary.grid) == {(m, p) for m in ("ls", "fairgrad") for p in ("gsam", "samo")}
    scores = summary.grid["ls", "samo"][0.2]
    assert scores.values == pytest.approx((81.2, 81.3, 81.4))
    assert scores.std == pytest.approx(statistics.stdev([81.2, 81.3, 81.4]))


def two_levels() -> list[Entry]:
    """MGDA at both levels, and FairGrad at the representation alone."""
    return [
        entry(method, preset, rho, seed, test=(80 + plus + seed, 80.0), step_ms=ms, level=level)
        for method, preset, rho, level, plus, ms in (
            ("mgda", "erm", None, "parameter", 0, 4.0),
            ("mgda", "gsam", 0.1, "parameter", 2, 8.0),
            ("mgda", "erm", None, "representation", 4, 1.0),
            ("mgda", "gsam", 0.1, "representation", 6, 2.0),
            ("fairgrad", "erm", None, "representation", 0, 2.0),
            ("fairgrad", "gsam", 0.1, "representation", 8, 5.0),
        )
        for seed in (0, 1)
    ]


def test_each_level_has_a_row() -> None:
    summary = summarize(two_levels())
    assert [row.names for row in summary.rows] == [
        ("mgda", "erm"),
        ("mgda", "gsam"),
        ("mgda", "erm@representation"),
        ("mgda", "gsam@representation"),
        ("fairgrad", "erm@representation"),
        ("fairgrad", "gsam@representation"),
    ]
    assert [row.level for row in summary.rows] == ["parameter"] * 2 + ["representation"] * 4
    assert summary.presets == ["erm", "erm@representation", "gsam", "gsam@representation"]
    assert len({row.mean_rank for row in summary.rows}) > 2
    assert set(summary.grid) == {
        ("mgda", "gsam"),
        ("mgda", "gsam@representation"),
        ("fairgrad", "gsam@representation"),
    }
    assert summary.at_representation
    assert not summarize(comparison()).at_representation


def test_plain_training_is_at_the_parameters_where_it_was_trained_there() -> None:
    summary = summarize(two_levels())
    assert [row.step_ratio for row in summary.rows] == [1.0, 2.0, 0.25, 0.5, 1.0, 2.5]
    means = {(d.preset, d.methods): d.average and d.average.mean for d in summary.differences}
    assert means == {
        ("erm@representation", ("mgda",)): 2.0,
        ("gsam", ("mgda",)): 1.0,
        ("gsam@representation", ("mgda",)): 3.0,
        ("gsam@representation", ("fairgrad",)): 4.0,
        ("gsam@representation", ("mgda", "fairgrad")): 3.5,
    }
    # Whatever the order of the runs.
    again = summarize(two_levels()[::-1])
    assert {r.names: r.step_ratio for r in again.rows} == {
        r.names: r.step_ratio for r in summary.rows
    }
