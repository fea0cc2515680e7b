"""Tuning of the learning rate and ρ: equal numbers of trials, own seeds, edges, extension."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import samo.training._compare
from samo.records import read_json
from samo.report import chosen_by_sweep, read, summarize
from samo.training import Best, RunError, Tuning, compare, extended, finals, plan_tuning, tune
from samo.training._chosen import edges
from samo.training._space import Choices, Range
from samo.training._tuning import refined
from tests.training.inline import TRAINED, InlineWorkers

TOY = "tests.toy:Toy"


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    TRAINED.clear()
    monkeypatch.setattr(samo.training._compare, "Workers", InlineWorkers)


def plan(**changes: Any) -> Tuning:
    given = {"lrs": [0.003, 0.03], "rhos": [0.1, 0.05], "epochs": 1, "ema": 0.9, **changes}
    return plan_tuning(TOY, ["ls"], ["erm", "gsam"], given.pop("lrs"), given.pop("rhos"), **given)


def score(out: Path, run: str, weights: str) -> float:
    results = read_json(out / run / "results.json")
    found: float = (results if weights == "raw" else results["ema"])["selected"]["score"]
    return found


def test_every_arm_has_as_many_trials() -> None:
    made = plan(trial_seeds=2)
    assert made.lists == {"lr": (0.003, 0.03), "rho": (0.05, 0.1)}
    paths = {arm.name: list(made.cells(arm)) for arm in made.arms}
    lrs = ("0.003", "0.00534", "0.00949", "0.03")
    assert paths["ls/erm"] == [f"ls/erm/lr-{lr}" for lr in lrs]
    assert paths["ls/gsam"] == [
        f"ls/gsam/lr-{lr}/rho-{rho}" for lr in ("0.003", "0.03") for rho in ("0.05", "0.1")
    ]
    assert {cell.config.seed for cell in made.all_cells} == {1000, 1001}
    assert len(made.all_cells) == 2 * 4 * 2


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=5, unique=True), st.integers(2, 20))
def test_refined_lists_keep_their_values_and_ends(values: list[float], number: int) -> None:
    values = sorted({float(f"{value:.3g}") for value in values})
    found = refined(values, number)
    assert len(found) == max(number if len(values) > 1 else 1, len(values))
    assert set(values) <= set(found)
    assert list(found) == sorted(found)
    assert (found[0], found[-1]) == (values[0], values[-1])
    # Longer lists hold the shorter ones: no trial is lost when the number grows.
    assert set(found) <= set(refined(values, number + 3))


def test_the_best_of_each_weights_is_by_validation_data_of_the_own_seeds(tmp_path: Path) -> None:
    made = plan(trial_seeds=2)
    best = tune(made, tmp_path)
    assert len(TRAINED) == 16
    assert [one.names[1] for one in best] == ["erm", "erm+ema", "gsam", "gsam+ema"]
    for one in best:
        means = {
            trial: sum(score(tmp_path, cell.path, one.weights) for cell in cells) / 2
            for trial, cells in made.cells(one.arm).items()
        }
        assert one.trial == max(means, key=lambda trial: means[trial])
        assert one.score == pytest.approx(means[one.trial])
        assert (one.trials, one.failed) == (4, 0)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert all(row["score"] and row["score+ema"] for row in rows)
    TRAINED.clear()
    assert tune(made, tmp_path) == best
    assert TRAINED == []


def test_each_row_has_the_runs_that_were_chosen_for_its_weights(tmp_path: Path) -> None:
    made = plan()
    best = tune(made, tmp_path)
    # As if averaged weights were best elsewhere.
    arm = made.arms[0]
    for i, lr in ((0, 0.003), (1, 0.03)):
        best[i] = replace(best[i], trial=f"ls/erm/lr-{lr:g}", params={"lr": lr})
    cells = finals(made, best, 2, stl=False)
    assert {cell.config.seed for cell in cells} == {0, 1}
    assert compare(cells, tmp_path, contrasts=["erm+ema:gsam"]) == {}
    summary = summarize(read(tmp_path), remarks=chosen_by_sweep(tmp_path))
    lrs = {
        row.preset: {run["config"]["lr"] for run in row.runs}
        for row in summary.rows
        if row.sharpness == arm.sharpness
    }
    assert lrs == {"erm": {0.003}, "erm+ema": {0.03}}
    assert [len(row.runs) for row in summary.rows] == [2, 2, 2, 2]
    (remark,) = summary.remarks
    assert "Chosen on validation data, with other seeds: ls/erm (4 trials) lr = " in remark


def test_a_best_value_at_an_edge_is_reported(tmp_path: Path) -> None:
    tune(plan(lrs=[1e-6, 1e-2], rhos=[0.1]), tmp_path)
    (remark,) = chosen_by_sweep(tmp_path)
    assert "At the edge of the values tried" in remark
    assert "lr of ls/gsam" in remark


def best_at(tuning: Tuning, **params: float) -> Best:
    return Best(tuning.arms[1], "raw", "x", 1.0, params, 4, 0)


def test_lists_are_extended_beyond_their_edges_for_all_arms() -> None:
    made = plan(lrs=[0.001, 0.002, 0.004], rhos=[0.1])
    assert extended(made, [best_at(made, lr=0.002, rho=0.1)]) is None
    wider = extended(made, [best_at(made, lr=0.004, rho=0.1), best_at(made, lr=0.001, rho=0.1)])
    assert wider is not None
    assert wider.lists == {"lr": (0.0005, 0.001, 0.002, 0.004, 0.008), "rho": (0.1,)}
    assert {len(wider.cells(arm)) for arm in wider.arms} == {5}
    assert {cell.path for cell in made.all_cells} <= {cell.path for cell in wider.all_cells}


def test_edges_of_lists_and_ranges() -> None:
    space: dict[str, Any] = {
        "a": Choices((1.0, 2.0, 3.0)),
        "b": Range(1e-4, 1.0, log=True),
        "c": Choices((1, "x")),
    }
    assert edges(space, {"a": 2.0, "b": 1e-2, "c": 1}) == []
    assert edges(space, {"a": 3.0, "b": 1.2e-4}) == ["a", "b"]
    assert edges({"a": Range(0.0, 1.0, log=False)}, {"a": 0.97}) == ["a"]


def test_a_trial_that_fails_is_counted(tmp_path: Path) -> None:
    best = tune(plan(lrs=[0.01, 1e30], rhos=[0.1]), tmp_path)
    assert all(one.params["lr"] < 1e20 for one in best)
    assert all(one.failed >= 1 for one in best)
    assert all(math.isfinite(one.score) for one in best)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrs": [0.1, -1.0]}, "lr = -1"),
        ({"rhos": [-0.1]}, "rho = -0.1"),
        ({"trial_seeds": 0}, "trial seeds must be at least 1; found 0"),
    ],
)
def test_a_tuning_that_cannot_be_planned(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        plan(**changes)
