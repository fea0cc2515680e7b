"""Schedules, means over the last epochs, and the place of the data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from samo.training import SCHEDULES, Progress, RunError, configured, plan, reported, train
from samo.training._run import Run
from samo.training._schedule import advance, complete_schedule
from tests import toy
from tests.training.test_resume import Killed, assert_same

TOY = "tests.toy:Toy"
FILE = "tests.training.files:FromFile"


def rates(name: str, options: dict[str, Any], scores: list[float], lr: float = 0.1) -> list[float]:
    """The learning rate in each epoch, by torch's scheduler."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    epochs = len(scores)
    made = SCHEDULES[name].make(optimizer, epochs, **complete_schedule(name, options, epochs))
    found = []
    for score in scores:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        advance(made, score)
    return found


def test_constant_is_constant() -> None:
    assert rates("constant", {}, [0.0] * 9) == [0.1] * 9


@pytest.mark.parametrize(
    ("options", "epochs", "powers"),
    [
        ({}, 6, [0, 0, 0, 1, 1, 1]),
        ({}, 5, [0, 0, 0, 1, 1]),
        ({}, 1, [0]),
        ({"every": 2}, 7, [0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_a_step_halves(options: dict[str, Any], epochs: int, powers: list[int]) -> None:
    found = rates("step", options, [0.0] * epochs)
    assert found == pytest.approx([0.1 * 0.5**power for power in powers], rel=1e-12)


def test_half_a_cosine() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 7)) / 2 for epoch in range(7)]
    assert rates("cosine", {}, [0.0] * 7) == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=40),
    st.integers(0, 3),
    st.sampled_from([0.5, 0.7]),
)
def test_a_plateau_by_hand(scores: list[float], patience: int, factor: float) -> None:
    expected, lr, best, bad = [], 0.1, -math.inf, 0
    for score in scores:
        expected.append(lr)
        best, bad = (score, 0) if score > best else (best, bad + 1)
        if bad > patience:
            lr, bad = max(lr * factor, 0.01), 0
    options = {"patience": patience, "factor": factor, "min_lr": 0.01}
    assert rates("plateau", options, scores) == pytest.approx(expected, rel=1e-7)


def test_steps_are_taken_at_the_rate_that_is_written_down() -> None:
    torch.manual_seed(0)
    run = Run(configured(benchmark=TOY, method="uw", schedule="step", epochs=4, lr=0.02))
    seen = []
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.append([group["lr"] for group in run.optimizer.param_groups])
    )
    for _ in range(4):
        run.train_epoch()
    assert seen == [[0.02, 0.02]] * 10 + [[0.01, 0.01]] * 10
    assert [record["lr"] for record in run.history] == [0.02, 0.02, 0.01, 0.01]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, schedule: str) -> None:
    # At the higher rate the score falls as well as rises.
    options, lr = ({"patience": 0}, 1.0) if schedule == "plateau" else ({}, 0.1)
    config = configured(
        benchmark=TOY, schedule=schedule, schedule_options=options, epochs=5, average_last=3, lr=lr
    )
    for epoch in (2, 4):

        def kill(progress: Progress, epoch: int = epoch) -> None:
            if (progress.epoch, progress.step) == (epoch, 2):
                raise Killed

        with pytest.raises(Killed):
            train(config, tmp_path / "killed", watch=kill)
    train(config, tmp_path / "killed")
    results = train(config, tmp_path / "unbroken")
    assert_same(tmp_path / "killed", tmp_path / "unbroken")
    # When a plateau is seen depends on the scores, and these on the machine.
    history = results["history"]
    assert [r["lr"] for r in history] == rates(schedule, options, [r["score"] for r in history], lr)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "stp"}, "unknown schedule 'stp', did you mean 'step'?"),
        ({"schedule": "step", "schedule_options": {"evry": 3}}, "did you mean 'every'?"),
        ({"schedule_options": {"every": 3}}, "unknown option of schedule 'constant', 'every'"),
        (
            {"schedule": "step", "schedule_options": {"every": 0}},
            "every of schedule 'step' must be a whole number of at least 1; found 0.",
        ),
        ({"schedule": "step", "schedule_options": {"every": 2.5}}, "a whole number"),
        ({"schedule": "step", "schedule_options": {"factor": "x"}}, "between 0 and 1; found 'x'"),
        ({"schedule": "step", "schedule_options": {"factor": 1.5}}, "between 0 and 1; found 1.5"),
        ({"schedule": "plateau", "schedule_options": {"patience": -1}}, "at least 0; found -1"),
        ({"average_last": -1}, "average_last = -1"),
        ({"average_last": 5, "epochs": 4}, "average_last = 5 is more than the 4 epochs"),
    ],
)
def test_bad_values_are_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as error:
        configured(**{"benchmark": TOY, **values})
    assert message in str(error.value)


def test_a_benchmark_s_protocol_is_the_default_and_fits_short_runs(tmp_path: Path) -> None:
    config = configured(benchmark=FILE, benchmark_options={"data": "x"})
    assert (config.schedule, config.average_last) == ("step", 3)
    assert config.schedule_options == {"every": 3, "factor": 0.5}
    short = configured(benchmark=FILE, epochs=2)
    assert (short.average_last, short.schedule_options["every"]) == (2, 1)
    off = configured(benchmark=FILE, average_last=0, schedule="constant")
    assert (off.average_last, off.schedule_options) == (0, {})


def test_the_mean_over_the_last_epochs_by_hand(tmp_path: Path) -> None:
    toy.ASKED_FOR.clear()
    config = configured(benchmark=TOY, epochs=5, average_last=2)
    results = train(config, tmp_path / "mean")
    assert "test" not in toy.ASKED_FOR[:9]  # the first three epochs
    history = results["history"]
    assert ["test" in record for record in history] == [False] * 3 + [True] * 2
    found = reported(results)
    assert found["epochs"] == [4, 5]
    for split in ("validation", "test"):
        for task, metric in (("sign", "accuracy"), ("size", "error")):
            values = [record[split][task][metric] for record in history[3:]]
            assert found[split][task][metric] == pytest.approx(np.mean(values), rel=1e-12)
    assert found["score"] == pytest.approx((history[3]["score"] + history[4]["score"]) / 2)
    assert history[4]["test"] == results["last"]["test"]
    # Nothing is chosen by it: all else is as without.
    plain = train(configured(benchmark=TOY, epochs=5), tmp_path / "plain")
    assert plain["selected"] == results["selected"] == reported(plain)
    assert [r["validation"] for r in plain["history"]] == [r["validation"] for r in history]


def test_data_may_be_moved_but_not_exchanged(tmp_path: Path) -> None:
    def config(name: str) -> Any:
        options = {"data": str(tmp_path / name)}
        return configured(benchmark=FILE, benchmark_options=options, epochs=1)

    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "n.txt").write_text("24")
    first = train(config("here/n.txt"), tmp_path / "run")
    (tmp_path / "here" / "n.txt").rename(tmp_path / "there" / "n.txt")
    again = train(config("there/n.txt"), tmp_path / "run")
    assert again["selected"] == json.loads(json.dumps(first["selected"]))
    (tmp_path / "m.txt").write_text("24")
    with pytest.raises(RunError, match=r"'n\.txt'} there, .*'m\.txt'} here"):
        train(config("m.txt"), tmp_path / "run")


@pytest.mark.parametrize("options", [{}, {"data": "nowhere.txt"}])
def test_files_that_are_missing_are_told_of(tmp_path: Path, options: dict[str, Any]) -> None:
    message = "nowhere.txt is no file" if options else r"needs the option 'data'.*--data PATH"
    with pytest.raises(RunError, match=message):
        train(configured(benchmark=FILE, benchmark_options=options), tmp_path / "x")
    with pytest.raises(RunError, match=message):
        plan(FILE, ["ls"], ["erm"], [], 1, benchmark_options=options)
    assert not (tmp_path / "x").exists()
