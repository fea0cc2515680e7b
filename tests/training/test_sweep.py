"""Sweeps: what is searched, with which budgets, by several processes, through interruptions."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

import samo.training._studies as studies_module
import samo.training._sweep as sweep_module
from samo.records import read_json
from samo.training import Cell, RunError, SweepPlan, configured, finals, plan_sweep, sweep
from samo.training._space import Choices, Range, full_name, parse
from samo.training._studies import Claim, Studies
from samo.training._workers import Workers
from tests.training.inline import TRAINED, InlineWorkers

TOY = "tests.toy:Toy"
SPACE = {"lr": "1e-3..1e-1", "rho": "0.01..0.1", "alpha": "0.1..0.9"}


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    TRAINED.clear()
    monkeypatch.setattr(sweep_module, "Workers", InlineWorkers)


def plan(
    space: dict[str, str] | None = None,
    sharpness: tuple[str, ...] = ("erm", "samo"),
    trials: int = 3,
    **common: Any,
) -> SweepPlan:
    common = {"epochs": 1, **common}
    return plan_sweep(TOY, ["ls"], sharpness, space or SPACE, trials=trials, **common)


def trials(out: Path) -> dict[str, dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def score(out: Path, run: str) -> float:
    found: float = read_json(out / run / "results.json")["selected"]["score"]
    return found


# What is typed.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-4..1e-1", Range(1e-4, 0.1, log=True)),
        ("0.1..0.9", Range(0.1, 0.9, log=False)),
        ("1..10", Range(1, 10, log=True)),
        ("1..9", Range(1, 9, log=False)),
        ("0..100", Range(0, 100, log=False)),
        ("-1.5..1", Range(-1.5, 1, log=False)),
        ("0.1..0.9:log", Range(0.1, 0.9, log=True)),
        ("1e-4..1e-1:linear", Range(1e-4, 0.1, log=False)),
        (".1...5", Range(0.1, 0.5, log=False)),
        ("0.1", Choices((0.1,))),
        ("0.1, 0.2", Choices((0.1, 0.2))),
        ("adam,sgd", Choices(("adam", "sgd"))),
        ("true,false,null", Choices((True, False, None))),
    ],
)
def test_ranges_and_lists(text: str, expected: Range | Choices) -> None:
    assert parse("x", text) == expected
    assert parse("x", str(expected)) == expected
    if isinstance(expected, Range):
        made: Any = expected.distribution()
        assert (made.low, made.high, made.log) == (expected.low, expected.high, expected.log)
        whole = all(isinstance(end, int) for end in expected.ends)
        assert type(made).__name__ == ("IntDistribution" if whole else "FloatDistribution")


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e6))
def test_the_scale_is_by_the_ratio(low: float, ratio: float) -> None:
    high = low * ratio
    found = parse("x", f"{low!r}..{high!r}")
    assert isinstance(found, Range)
    assert found.log == (high / low >= 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a range a..b or a list a,b,c; found ''"),
        ("a..b", "must be a range of numbers a..b; found 'a..b'"),
        ("1..", "must be a range of numbers"),
        ("2..1", "with the lower end first; found '2..1'"),
        ("1..1", "with the lower end first"),
        ("0..1:log", "must be positive on a log scale"),
        ("1..2:lin", "must be log or linear"),
        ("1..inf", "finite"),
    ],
)
def test_what_is_no_range(text: str, message: str) -> None:
    with pytest.raises(RunError) as error:
        parse("rho", text)
    assert message in str(error.value)
    assert "rho" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"rhoo": "0..1"}}, "unknown setting to search 'rhoo', did you mean 'rho'?"),
        ({"space": {"seed": "0..1"}}, "unknown setting to search 'seed'"),
        ({"space": {"sharpness_options": "1"}}, "unknown setting to search"),
        ({"space": {"alpha": "0..1"}, "sharpness": ("erm",)}, "none of ls/erm has the setting"),
        ({"space": {"method_options.alpha": "1..2"}}, "none of ls/erm, ls/samo has the setting"),
        ({"space": {"rho": "0.1"}}, "there is nothing to search"),
        ({"space": {"rho": "-1..1"}}, "rho = -1"),
        ({"space": {"alpha": "0.5..1.5"}}, "alpha must be a number in [0, 1]; found 1.5"),
        ({"space": {"optimizer": "adam,adan"}}, "optimizer = 'adan'"),
        ({"space": {"batch_size": "0..4"}}, "batch_size = 0"),
        ({"sharpness": ("smao",)}, "did you mean 'samo'?"),
        ({"sharpness": ()}, "at least one method, one sharpness preset"),
        ({"trials": 0}, "trials must be at least 1; found 0"),
        ({"trial_seeds": 0}, "trial seeds must be at least 1; found 0"),
        ({"benchmark_options": {"n": 2}}, "n must be at least 8"),
        ({"lr": 0.1, "space": {"rho": "0..1"}, "epochs": 0}, "epochs = 0"),
    ],
)
def test_a_sweep_that_cannot_be_planned(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as error:
        plan(**changes)
    assert message in str(error.value)


def test_each_arm_is_searched_for_what_it_has() -> None:
    space = {"alpha": "0..1", "method_options.alpha": "1..2", "rho": "0..1", "lr": "0.1..0.2"}
    made = plan_sweep(TOY, ["ls", "FairGrad"], ["erm", "gsam", "samo"], space, trials=1)
    assert {arm.name: set(arm.space) for arm in made.arms} == {
        "ls/erm": {"lr"},
        "ls/gsam": {"lr", "rho"},
        "ls/samo": {"lr", "rho", "sharpness_options.alpha"},
        "fairgrad/erm": {"lr", "method_options.alpha"},
        "fairgrad/gsam": {"lr", "rho", "method_options.alpha"},
        "fairgrad/samo": {"lr", "rho", "sharpness_options.alpha", "method_options.alpha"},
    }
    assert full_name("schedule_options.factor") == "schedule_options.factor"
    config = made.arms[-1].config(
        {"rho": 0.3, "sharpness_options.alpha": 0.25, "method_options.alpha": 1.5, "lr": 0.2}, 7
    )
    assert (config.rho, config.lr, config.seed, config.method) == (0.3, 0.2, 7, "fairgrad")
    assert config.sharpness_options["alpha"] == 0.25
    assert config.method_options == {"alpha": 1.5}


# The search.


def test_levels_are_arms_of_their_own() -> None:
    made = plan_sweep(
        TOY,
        ["ls", "mgda"],
        ["erm", "samo"],
        {"lr": "1e-3..1e-1"},
        trials=2,
        levels=["representation", "parameter"],
    )
    assert {arm.name: arm.config({}, 0).level for arm in made.arms} == {
        "ls/erm": "parameter",
        "ls/samo": "parameter",
        "mgda/erm@representation": "representation",
        "mgda/erm": "parameter",
        "mgda/samo": "parameter",
    }
    with pytest.raises(RunError, match="decompose=True needs those of two passes"):
        plan_sweep(
            TOY,
            ["mgda"],
            ["gsam"],
            {"sharpness_options.decompose": "false,true"},
            trials=2,
            levels=["representation"],
        )


def test_budgets_are_equal_and_the_best_is_by_validation_data(tmp_path: Path) -> None:
    made = plan(trials=4)
    result = sweep(made, tmp_path)
    rows = trials(tmp_path)
    for arm in made.arms:
        own = {path: row for path, row in rows.items() if path.startswith(f"{arm.name}/")}
        assert sorted(own) == [f"{arm.name}/trial-{i:03d}" for i in range(4)]
        scores = {path: score(tmp_path, f"{path}/seed-1000") for path in own}
        assert {path: float(row["score"]) for path, row in own.items()} == pytest.approx(scores)
        (best,) = [b for b in result.best if b.arm == arm]
        top = max(scores, key=lambda path: scores[path])
        assert best.trial == top
        assert best.score == pytest.approx(scores[top])
        assert (best.trials, best.failed) == (4, 0)
        config = read_json(tmp_path / top / "seed-1000" / "config.json")
        assert config == json.loads(arm.config(best.params, 1000).model_dump_json())
    for row in rows.values():
        assert 1e-3 <= float(row["lr"]) <= 1e-1
        assert (row["rho"] == "") == (row["trial"].startswith("ls/erm"))
        if row["rho"]:
            assert 0.01 <= float(row["rho"]) <= 0.1
            assert 0.1 <= float(row["sharpness_options.alpha"]) <= 0.9
    # In turn, so that the budgets are equal at any time; and from the same beginnings.
    assert [path.split("/")[1] for path in TRAINED] == ["erm", "samo"] * 4
    for i in range(4):
        assert rows[f"ls/erm/trial-{i:03d}"]["lr"] == rows[f"ls/samo/trial-{i:03d}"]["lr"]
    assert result.going_on == 0


def test_where_there_is_nothing_to_choose_one_trial_is_enough(tmp_path: Path) -> None:
    result = sweep(plan({"rho": "0.01..0.1"}), tmp_path)
    assert {b.arm.name: b.trials for b in result.best} == {"ls/erm": 1, "ls/samo": 3}
    assert len(TRAINED) == plan({"rho": "0.01..0.1"}).runs == 4


def test_a_second_call_trains_nothing_and_more_trials_search_on(tmp_path: Path) -> None:
    first = sweep(plan(), tmp_path)
    rows = trials(tmp_path)
    TRAINED.clear()
    events: list[Any] = []
    assert sweep(plan(), tmp_path, watch=events.append).best == first.best
    assert TRAINED == []
    assert [event.ended for event in events] == [True] * 6
    sweep(plan(trials=4), tmp_path)
    assert TRAINED == ["ls/erm/trial-003/seed-1000", "ls/samo/trial-003/seed-1000"]
    assert {path: trials(tmp_path)[path] for path in rows} == rows


def test_another_sweep_in_the_directory_is_refused(tmp_path: Path) -> None:
    sweep(plan(trials=1), tmp_path)
    before = (tmp_path / "trials.csv").read_bytes()
    for other in (
        plan({**SPACE, "lr": "1e-3..1e-2"}, trials=1),
        plan(trials=1, epochs=2),
        plan(trials=1, trial_seeds=2),
    ):
        with pytest.raises(RunError, match="another sweep under the name 'ls/erm'"):
            sweep(other, tmp_path)
    assert (tmp_path / "trials.csv").read_bytes() == before


def test_a_renamed_directory_goes_on(tmp_path: Path) -> None:
    sweep(plan(trials=1), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    TRAINED.clear()
    sweep(plan(trials=2), tmp_path / "b")
    assert len(TRAINED) == 2


def test_the_same_settings_are_trained_once(tmp_path: Path) -> None:
    result = sweep(plan({"lr": "0.01,0.02"}, ("erm",), trials=6), tmp_path)
    rows = trials(tmp_path)
    assert len(rows) == 6
    assert {row["state"] for row in rows.values()} == {"COMPLETE"}
    scores = {(row["lr"], row["score"]) for row in rows.values()}
    assert len(scores) == len({lr for lr, _ in scores})
    logs = list(tmp_path.glob("ls/erm/*/seed-1000/log.jsonl"))
    assert len(logs) == len(scores)
    assert result.best[0].trials == 6


def test_scores_are_means_over_the_seeds_of_a_trial(tmp_path: Path) -> None:
    made = plan({"lr": "1e-3..1e-1"}, ("erm",), trials=2, trial_seeds=2)
    result = sweep(made, tmp_path)
    for path, row in trials(tmp_path).items():
        both = [score(tmp_path, f"{path}/seed-{seed}") for seed in (1000, 1001)]
        assert float(row["score"]) == pytest.approx(sum(both) / 2)
    cells = finals(made, result.best, seeds=3, stl=False)
    assert not any((tmp_path / cell.path).exists() for cell in cells)
    assert [cell.config.seed for cell in cells] == [0, 1, 2]
    assert {cell.config.lr for cell in cells} == {result.best[0].params["lr"]}


def test_the_best_are_compared_with_single_task_training(tmp_path: Path) -> None:
    made = plan(trials=1)
    result = sweep(made, tmp_path)
    cells = finals(made, result.best, seeds=2)
    assert sum(cell.baseline for cell in cells) == 4
    paths = [cell.path for cell in cells if not cell.baseline]
    assert paths == [f"ls/{s}/trial-000/seed-{i}" for s in ("erm", "samo") for i in (0, 1)]
    with pytest.raises(RunError, match="seeds must be at least 1"):
        finals(made, result.best, seeds=0)


# What goes wrong.


def interrupted(out: Path, at: str, made: SweepPlan) -> None:
    def watch(event: Any) -> None:
        if event.cell.path == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(made, out, watch=watch)


def test_an_interrupted_search_goes_on_to_the_same_trials(tmp_path: Path) -> None:
    made = plan()
    sweep(made, tmp_path / "unbroken")
    for at in ("ls/erm/trial-000", "ls/samo/trial-001", "ls/samo/trial-001"):
        interrupted(tmp_path / "broken", f"{at}/seed-1000", made)
    TRAINED.clear()
    result = sweep(made, tmp_path / "broken")
    assert TRAINED[0] == "ls/samo/trial-001/seed-1000"
    assert trials(tmp_path / "broken") == trials(tmp_path / "unbroken")
    assert (result.going_on, result.failures) == (0, {})


def test_a_trial_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    made = plan()
    interrupted(tmp_path, "ls/erm/trial-000/seed-1000", made)
    lock = FileLock(tmp_path / "ls/erm/trial-000/.lock")
    with lock:
        result = sweep(made, tmp_path)
        assert result.going_on == 1
        assert trials(tmp_path)["ls/erm/trial-000"]["state"] == "RUNNING"
    assert "ls/erm/trial-000/seed-1000" not in TRAINED[1:]
    assert sweep(made, tmp_path).going_on == 0
    # A worker that outlives its parent for a moment holds the run's own lock.
    interrupted(tmp_path / "x", "ls/erm/trial-000/seed-1000", made)
    with FileLock(tmp_path / "x/ls/erm/trial-000/seed-1000/.lock"):
        assert sweep(made, tmp_path / "x").going_on == 1


def test_trials_that_diverge_are_counted_and_others_that_fail_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan({"lr": "0.01,1e30"}, ("erm",), trials=6, optimizer="sgd")
    result = sweep(made, tmp_path)
    rows = trials(tmp_path)
    bad = {path for path, row in rows.items() if float(row["lr"]) > 1}
    assert 0 < len(bad) < 6
    assert {path for path, row in rows.items() if row["state"] == "DIVERGED"} == bad
    assert all("finite" in rows[path]["failure"] or "is " in rows[path]["failure"] for path in bad)
    assert set(result.failures) == bad
    assert result.best[0].failed == len(bad)
    TRAINED.clear()
    sweep(made, tmp_path)
    assert TRAINED == []

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("out of luck")

    made = plan({"lr": "1e-3..1e-1"}, ("erm",), trials=2)
    with monkeypatch.context() as patch:
        patch.setattr("tests.training.inline.train", fails)
        result = sweep(made, tmp_path / "x")
    assert set(result.failures.values()) == {"out of luck"}
    assert result.best == ()
    assert len(TRAINED) == 2  # not again and again
    before = {path: row["lr"] for path, row in trials(tmp_path / "x").items()}
    result = sweep(made, tmp_path / "x")
    assert (result.failures, result.best[0].trials) == ({}, 2)
    assert {path: row["lr"] for path, row in trials(tmp_path / "x").items()} == before


def test_machines_that_share_a_database_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    made = plan({"lr": "1e-3..1e-1"}, ("erm",), trials=2)
    one, two = tmp_path / "one" / "sweep", tmp_path / "two" / "sweep"
    for out in (one, two):
        out.mkdir(parents=True)

    def watch(event: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(made, one, storage=storage, watch=watch)
    TRAINED.clear()
    assert sweep(made, two, storage=storage).going_on == 1  # it may be alive there
    assert TRAINED == ["ls/erm/trial-001/seed-1000"]
    monkeypatch.setattr(studies_module, "STALE", -1.0)
    result = sweep(made, two, storage=storage)
    assert TRAINED[1:] == ["ls/erm/trial-000/seed-1000"]
    assert (result.going_on, result.best[0].trials) == (0, 2)
    other = tmp_path / "one" / "other"
    sweep(made, other, storage=storage)  # another name, another sweep
    assert len(TRAINED) == 4


@pytest.mark.parametrize("storage", ["nosuch://x", "sqlite:////no/such/place.db"])
def test_a_storage_that_cannot_be_used(tmp_path: Path, storage: str) -> None:
    with pytest.raises(RunError, match=r"the storage .* cannot be used"):
        sweep(plan(), tmp_path / "x", storage=storage)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_events_overdraws_or_loses_a_trial(tmp_path: Path, seed: int) -> None:
    """Three processes claim, finish, fail and die in any order."""
    random = Random(seed)
    made = plan({"lr": "1e-3..1e-1", "rho": "0.01..0.1"}, trials=4)

    def process() -> Studies:
        return Studies(made, tmp_path, None, seed=0)

    processes = [process() for _ in range(3)]
    held: list[tuple[Studies, Claim]] = []
    params: dict[str, Any] = {}
    for _ in range(40):
        if held and random.random() < 0.6:
            owner, claim = held.pop(random.randrange(len(held)))
            outcome = random.choice(["done", "done", "diverged", "failed", "died"])
            if outcome == "done":
                owner.finish(claim, random.random(), None, diverged=False)
            elif outcome != "died":
                owner.finish(claim, None, outcome, diverged=outcome == "diverged")
            claim.lock.release()
        else:
            owner = random.choice(processes)
            if (found := owner.claim()) is not None:
                held.append((owner, found))
                assert params.setdefault(found.path, found.trial.params) == found.trial.params
        paths = [claim.path for _, claim in held]
        assert len(set(paths)) == len(paths)
        for arm in made.arms:
            assert set(owner.slots(arm)) <= set(range(4))
    for owner, claim in held:
        owner.finish(claim, 1.0, None, diverged=False)
        claim.lock.release()
    last = process()
    while (found := last.claim()) is not None:
        last.finish(found, 1.0, None, diverged=False)
        found.lock.release()
    assert last.going_on() == 0
    for arm in made.arms:
        slots = last.slots(arm)
        assert set(slots) == set(range(4))
        assert {trial.state.name for trial in slots.values()} <= {"COMPLETE", "PRUNED"}


@pytest.mark.slow
def test_two_processes_share_a_search(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.sweeper", str(tmp_path / "out"), "4"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    trained = " ".join(outputs).split()
    expected = [f"ls/{s}/trial-{i:03d}/seed-1000" for s in ("erm", "gsam") for i in range(4)]
    assert sorted(trained) == sorted(expected)
    rows = trials(tmp_path / "out")
    assert len(rows) == 8
    assert all(math.isfinite(float(row["score"])) for row in rows.values() if row["score"])
    made = plan_sweep(
        TOY, ["ls"], ["erm", "gsam"], {"lr": "1e-3..1e-1", "rho": "0.01..0.1"}, trials=4, epochs=1
    )
    TRAINED.clear()
    result = sweep(made, tmp_path / "out")
    assert (TRAINED, result.going_on) == ([], 0)
    assert {best.trials for best in result.best} == {4}


@pytest.mark.slow
def test_workers_take_their_runs_one_by_one(tmp_path: Path) -> None:
    """Real processes: a source learns how its run ended before it gives the next one."""
    seen: list[Any] = []

    def source() -> Any:
        for name, n in (("good", 24), ("bad", 41)):
            kind = "tests.toy:Faulty"
            config = configured(benchmark=kind, benchmark_options={"n": n}, epochs=1)
            seen.append((yield Cell(name, config)))
        diverging = configured(benchmark=TOY, optimizer="sgd", lr=1e30, epochs=1)
        seen.append((yield Cell("diverging", diverging)))

    events = list(Workers(tmp_path).run([source()]))
    assert [event for event in events if event.ended] == seen
    assert [(event.cell.path, event.failure is None, event.diverged) for event in seen] == [
        ("good", True, False),
        ("bad", False, False),
        ("diverging", False, True),
    ]


def test_an_error_in_a_source_comes_out(tmp_path: Path) -> None:
    def source() -> Any:
        raise OSError("the storage is gone")
        yield

    with pytest.raises(OSError, match="the storage is gone"):
        list(Workers(tmp_path).run([source()]))
