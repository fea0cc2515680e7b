"""Comparisons: in several processes, with failures among them, through interruptions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from samo.records import read_json
from samo.training import Cell, Event, RunError, compare, configured, plan, train
from samo.training._plan import baselines

TOY = "tests.toy:Toy"
FAULTS = {"error": {"n": 41}, "death": {"n": 42}}


def cells() -> list[Cell]:
    return plan(TOY, ["ls", "mgda"], ["erm", "gsam"], [0.02, 0.05], seeds=1, epochs=1)


def faulty() -> list[Cell]:
    failing = [
        Cell(
            f"faulty/{name}",
            configured(benchmark="tests.toy:Faulty", benchmark_options=options, epochs=1),
        )
        for name, options in FAULTS.items()
    ]
    return [*failing, Cell("faulty/device", configured(benchmark=TOY, device="cuda:77", epochs=1))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], list[Event]]:
    """A comparison in two processes: a run fails, one takes its process along, one cannot begin."""
    out = tmp_path_factory.mktemp("comparison")
    events: list[Event] = []
    failures = compare([*faulty(), *cells()], out, jobs=2, watch=events.append)
    return out, failures, events


def arms(methods: list[str], sharpness: list[str], levels: list[str]) -> dict[str, str]:
    """The levels of the arms by their directories."""
    planned = plan(TOY, methods, sharpness, [0.1], 1, levels=levels, stl=False, epochs=1)
    found = {cell.path.removesuffix("/seed-0"): cell.config.level for cell in planned}
    assert len(found) == len(planned)
    return {path.removesuffix("/rho-0.1"): level for path, level in found.items()}


BOTH = ["parameter", "representation"]


def test_each_arm_is_planned_at_each_level_that_it_has() -> None:
    found = arms(["ls", "fairgrad", "moco"], ["erm", "gsam", "msam", "heads", "samo"], BOTH)
    one_point = ("erm", "gsam", "msam", "heads")
    expected = {f"{m}/{p}": "parameter" for m in ("ls", "moco") for p in (*one_point, "samo")}
    expected |= {f"fairgrad/{p}": "parameter" for p in (*one_point, "samo")}
    expected |= {f"fairgrad/{p}@representation": "representation" for p in one_point}
    assert found == expected
    assert arms(["fairgrad", "fairgrad"], ["erm"], BOTH * 2) == {
        "fairgrad/erm": "parameter",
        "fairgrad/erm@representation": "representation",
    }


def test_an_arm_without_the_level_is_at_the_parameters() -> None:
    assert arms(["ls", "fairgrad"], ["erm", "samo"], BOTH[1:]) == {
        "ls/erm": "parameter",
        "ls/samo": "parameter",
        "fairgrad/erm@representation": "representation",
        "fairgrad/samo": "parameter",
    }
    # The level makes no difference to methods that compare no task gradients.
    assert arms(["ls", "uw"], ["erm"], BOTH[1:]) == dict.fromkeys(("ls/erm", "uw/erm"), "parameter")


@pytest.mark.parametrize(
    ("methods", "sharpness", "levels", "message"),
    [
        (["mgda"], ["samo"], BOTH[1:], "evaluates the tasks at points of their own"),
        (["mgda", "fairgrad"], ["samo", "lsam"], BOTH, "evaluates the tasks at points of their"),
        (["mgda"], ["fmtl"], BOTH[1:], "level='parameter'"),
        (["moco"], ["erm"], BOTH[1:], "relates them to other batches"),
        (["mgda"], ["erm"], ["parameters"], "unknown level 'parameters', did you mean 'parameter'"),
        (["mgda"], ["erm"], [], "at least one method, one sharpness preset and one level"),
    ],
)
def test_levels_that_nothing_has(
    methods: list[str], sharpness: list[str], levels: list[str], message: str
) -> None:
    with pytest.raises(RunError, match=re.escape(message)):
        arms(methods, sharpness, levels)


def test_the_plan_has_each_combination_once() -> None:
    paths = [cell.path for cell in cells()]
    assert len(set(paths)) == len(paths) == 2 + 2 * (1 + 2)
    assert sum(cell.baseline for cell in cells()) == 2
    for cell in cells():
        c = cell.config
        if cell.baseline:
            assert (c.method, c.sharpness) == ("ls", "erm")
            assert cell.path == f"stl/{(c.tasks or ())[0]}/seed-{c.seed}"
        else:
            rho = "" if c.rho is None else f"/rho-{c.rho:g}"
            assert cell.path == f"{c.method}/{c.sharpness}{rho}/seed-{c.seed}"
            assert c.tasks is None


def test_tasks_of_any_names_have_paths_of_their_own() -> None:
    tasks = ["a_b", "a b", "a/b", "a%20b", "../a", "größe.1+2-x"]
    paths = [cell.path for cell in baselines({"benchmark": TOY}, tasks, seed=0)]
    assert len(set(paths)) == len(tasks)
    assert all(re.fullmatch(r"stl/[^/\s]+/seed-0", path) for path in paths)
    assert [paths[0], paths[-1]] == ["stl/a_b/seed-0", "stl/größe.1+2-x/seed-0"]


def test_the_grid_is_the_benchmark_s_where_none_is_given_and_the_same_for_all() -> None:
    planned = plan(TOY, ["ls"], ["erm", "gsam", "samo"], [], seeds=1, stl=False)
    rhos: dict[str, list[Any]] = {}
    for cell in planned:
        rhos.setdefault(cell.config.sharpness, []).append(cell.config.rho)
    assert rhos == {"erm": [None], "gsam": [0.05, 0.1], "samo": [0.05, 0.1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit", ["ls"], ["erm"], [], 1), "did you mean 'digits'?"),
        ((TOY, ["lss"], ["erm"], [], 1), "did you mean 'ls'?"),
        ((TOY, ["krum"], ["erm"], [], 1), "krum"),  # needs three tasks
        ((TOY, ["ls"], ["emr"], [], 1), "did you mean 'erm'?"),
        ((TOY, [], ["erm"], [], 1), "at least one method"),
        ((TOY, ["ls"], ["gsam"], [-0.1], 1), "rho = -0.1"),
        ((TOY, ["ls"], ["erm"], [], 0), "seeds must be at least 1; found 0"),
    ],
)
def test_a_plan_that_cannot_be_made(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RunError) as error:
        plan(*arguments)
    assert message in str(error.value)


def test_failures_are_told_and_stop_no_other_run(finished) -> None:
    out, failures, events = finished
    assert set(failures) == {"faulty/error", "faulty/death", "faulty/device"}
    assert failures["faulty/error"] == "ZeroDivisionError: the loss is faulty"
    assert "its process died (exit status 9" in failures["faulty/death"]
    assert "the loss is faulty" in (out / "faulty/error/error.txt").read_text()
    why = failures["faulty/device"]
    assert "cuda:77" in why
    assert (out / "faulty/device/error.txt").read_text() == why + "\n"
    for cell in cells():
        assert (out / cell.path / "results.json").exists()
    ended = [event.cell.path for event in events if event.ended]
    assert sorted(ended) == sorted(cell.path for cell in [*faulty(), *cells()])


def test_the_numbers_are_those_of_a_run_by_itself(finished, tmp_path: Path) -> None:
    out, *_ = finished
    for cell in (cells()[0], cells()[-1]):
        alone = train(cell.config, tmp_path / cell.path)
        together = read_json(out / cell.path / "results.json")
        for part in ("selected", "last", "history", "config"):
            assert together[part] == json.loads(json.dumps(alone[part]))


def test_finished_runs_are_skipped(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    out, *_ = finished

    def no_process(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    events: list[Event] = []
    assert compare(cells(), out, jobs=2, watch=events.append) == {}
    assert [event.cell for event in events] == cells()
    assert all(event.ended for event in events)


def test_a_directory_with_other_runs_is_refused_before_anything_starts(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, *_ = finished
    copy = tmp_path / "copy"
    shutil.copytree(out / "ls", copy / "ls")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something started"))
    others = plan(TOY, ["mgda", "ls"], ["erm"], [], seeds=1, epochs=3)
    with pytest.raises(RunError, match=r"epochs \(1 saved, 3 requested\)"):
        compare(others, copy)
    assert [path.name for path in copy.iterdir()] == ["ls"]


def test_an_interrupt_ends_the_processes_and_a_second_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = tmp_path / "sign"
    monkeypatch.setenv("TOY_HANGS", str(sign))
    cell = Cell("hanging", configured(benchmark="tests.toy:Hanging", epochs=4))
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def spy(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    def interrupt(event: Event) -> None:
        if event.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", spy)
    with pytest.raises(KeyboardInterrupt):
        compare([cell], tmp_path / "out", watch=interrupt)
    assert [process.poll() for process in started] == [-9]
    with FileLock(tmp_path / "out" / "hanging" / ".lock", timeout=0):
        pass
    # In this process, to save the start of another: what a second call's worker would do.
    monkeypatch.delenv("TOY_HANGS")
    results = train(cell.config, tmp_path / "out" / "hanging")
    assert [record["epoch"] for record in results["history"]] == [1, 2, 3, 4]
    assert compare([cell], tmp_path / "out") == {}
    assert len(started) == 1
    assert "TOY_HANGS" not in os.environ
