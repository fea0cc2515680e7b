"""Results on disk: their schema, resuming, and what is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from samo.cost import (
    CASES,
    PLAIN,
    SUBJECTS,
    Conditions,
    Subject,
    chosen,
    conditions,
    measure,
    read_results,
    step_costs,
)
from samo.records import read_json
from samo.training import RunError
from tests.cli.test_app import run

STEPS = {"title", "passes", "noise_bytes", "seconds", "bare_seconds", "peak_bytes"}
PASSES = {"forwards", "evaluations", "heads", "backwards"}


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short steps are timed once."""
    monkeypatch.setattr("samo.cost._measure._ENOUGH", 1e-6)


def small(case: str = "mlp", **options: Any) -> Conditions:
    return conditions(case, size="small", threads=1, **options)


def steps_of(*names: str) -> dict[str, Subject]:
    return {name: SUBJECTS[name] for name in names}


def measured(file: Path, names: str = "plain,erm", **options: Any) -> dict[str, Any]:
    steps, bare = options.pop("steps", 2), options.pop("bare", False)
    return measure(small(**options), steps_of(*names.split(",")), file, steps=steps, bare=bare)


def test_the_schema_of_the_results(tmp_path: Path) -> None:
    names = "plain,torchjd-autogram,erm-representation,samo"
    results = measured(tmp_path / "a.json", names, bare=True)
    content = read_json(tmp_path / "a.json")
    assert results == read_results(tmp_path / "a.json") == content
    assert set(results) == {
        "format",
        "setting",
        "machine",
        "parameters",
        "shared_parameters",
        "steps",
    }
    assert results["setting"]["numbers"] == {"tasks": 3, "batch": 8, "inputs": 8, "width": 16}
    assert results["shared_parameters"] == 8 * 16 + 16 + 16 * 16 + 16
    assert results["parameters"] == results["shared_parameters"] + 3 * 17
    assert {"cpu", "cores", "gpu", "torch", "commit"} <= set(results["machine"])
    for name, step in results["steps"].items():
        assert set(step) == STEPS
        assert len(step["seconds"]) == 2
        assert min(step["seconds"]) > 0
        assert step["peak_bytes"] > 0
        if SUBJECTS[name].recorded:
            assert set(step["passes"]) == PASSES
            assert len(step["bare_seconds"]) == 2
        else:
            assert step["passes"] is step["noise_bytes"] is None
            assert step["bare_seconds"] == []


def test_rows_summarise_times_memory_and_passes() -> None:
    plain, erm, samo = step_costs(crafted())
    assert (plain.forwards, plain.evaluations, plain.backwards) == (None, None, None)
    assert (erm.forwards, erm.evaluations, erm.backwards) == (1, 0, 2)
    assert (samo.forwards, samo.evaluations, samo.backwards) == (3, 4, 3)
    ratios = {
        row.name: [
            None if ratio is None else ratio.median
            for ratio in (row.to_plain, row.to_bare, row.bare_to_plain)
        ]
        for row in (plain, erm, samo)
    }
    assert ratios["plain"] == [1, None, None]
    assert ratios["erm"] == pytest.approx([2, 1 / 0.9, 1.8])
    assert ratios["samo"] == pytest.approx([6, 1.1, 6 / 1.1])
    assert (plain.peak_to_plain, plain.above_plain) == (1, 0)
    assert samo.peak_to_plain == 9
    assert samo.above_plain == pytest.approx((9000 - 1000) / 400)


def crafted(case: str = "mlp", method: str = "fairgrad") -> dict[str, Any]:
    """Makes results in which ERM takes 2 × and SAMO 6 × plain backprop in every round."""
    load = [1.0, 5.0, 2.0]

    def step(factor: float, peak: int, bare: float = 0.0, *counts: int) -> dict[str, Any]:
        names = ("forwards", "evaluations", "heads", "backwards")
        return {
            "title": "a step",
            "passes": dict(zip(names, counts, strict=True)) if counts else None,
            "noise_bytes": 0 if counts else None,
            "seconds": [factor * x for x in load],
            "bare_seconds": [bare * x for x in load] if counts else [],
            "peak_bytes": peak,
        }

    return {
        "format": 2,
        "setting": {
            "case": case,
            "size": "standard",
            "numbers": {"tasks": 2, "batch": 8},
            "method": method,
            "device": "cpu",
            "threads": 1,
        },
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "gpu": None,
            "system": "Linux",
            "python": "3.11.7",
            "torch": "2.13.0",
            "torchjd": "0.18.0",
            "samo": "1.0",
            "commit": "abc1234",
        },
        "parameters": 120,
        "shared_parameters": 100,
        "steps": {
            "plain": step(1.0, 1000),
            "erm": step(2.0, 3000, 1.8, 1, 0, 2, 2),
            "samo": step(6.0, 9000, 6 / 1.1, 3, 4, 8, 3),
        },
    }


def test_an_interrupted_measurement_continues(tmp_path: Path) -> None:
    file = tmp_path / "a.json"

    def interrupting(done: int, _total: int) -> None:
        if done == 7:  # memory: 3 measurements; then times
            raise KeyboardInterrupt

    subjects = steps_of("plain", "erm", "gsam")
    with pytest.raises(KeyboardInterrupt):
        measure(small(), subjects, file, steps=3, bare=True, watch=interrupting)
    before = read_results(file)
    totals = []
    results = measure(
        small(), subjects, file, steps=3, bare=True, watch=lambda _d, t: totals.append(t)
    )
    assert totals[0] == 3 + 3 * 5 - 7
    for name, entry in before["steps"].items():
        for times in ("seconds", "bare_seconds"):
            kept = entry[times]
            assert results["steps"][name][times][: len(kept)] == kept
        assert len(results["steps"][name]["seconds"]) == 3
    again = []
    assert measure(small(), subjects, file, steps=2, watch=lambda *d: again.append(d)) == results
    assert again == [(0, 0)]


def test_presets_are_added_to_existing_results(tmp_path: Path) -> None:
    first = measured(tmp_path / "a.json", "plain,erm", steps=1)
    both = measured(tmp_path / "a.json", "plain,lsam", steps=1)
    assert list(both["steps"]) == ["plain", "erm", "lsam"]
    assert both["steps"]["erm"] == first["steps"]["erm"]
    assert not any(step["bare_seconds"] for step in both["steps"].values())
    timed = measured(tmp_path / "a.json", "erm", steps=1, bare=True)
    assert [len(step["bare_seconds"]) for step in timed["steps"].values()] == [0, 1, 0]


def test_what_has_been_timed_for_long_is_not_timed_again(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    results = measured(file, "plain,erm", steps=1)
    results["steps"]["erm"]["seconds"] = [100.0]
    file.write_text(json.dumps(results), "utf-8")
    results = measured(file, "plain,erm", steps=3)
    assert [len(step["seconds"]) for step in results["steps"].values()] == [3, 1]


@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_every_case_includes_the_gradients_that_are_held(
    case: str, tmp_path: Path
) -> None:
    """Plain backprop holds the gradient of every parameter, TorchJD each task's as well.

    Which of the two has the larger peak depends on the processor: their other allocations do.
    """
    results = measured(tmp_path / "a.json", "plain,torchjd", case=case, steps=0)
    tasks, float32 = results["setting"]["numbers"]["tasks"], 4
    assert results["steps"]["plain"]["peak_bytes"] >= float32 * results["parameters"]
    rows_of_tasks = float32 * tasks * results["shared_parameters"]
    assert results["steps"]["torchjd"]["peak_bytes"] >= rows_of_tasks


def test_steps_are_chosen_by_preset_level_and_method() -> None:
    def names(*arguments: Any) -> list[str]:
        return list(chosen(*arguments))

    both = ["plain", "erm", "erm-representation"]
    assert names(["erm"], "fairgrad") == both
    assert names(["erm"], "fairgrad", ["parameter"]) == both[:2]
    assert names(["erm"], "fairgrad", ["representation"]) == [both[0], both[2]]
    assert names(["erm", "torchjd"], "ls") == ["plain", "erm"]  # it compares no gradients
    assert names(["torchjd-autogram"], "graddrop") == ["plain"]  # it needs a Jacobian
    assert names(["torchjd", "erm"], "nash-mtl") == ["plain", "torchjd", *both[1:]]
    assert names([PLAIN], "fairgrad") == ["plain"]
    default = names([], "fairgrad")
    assert {*both, "gsam", "lsam", "fmtl", "samo", "torchjd"} <= set(default)
    assert "samo-task-groups" not in default


def test_methods_of_the_losses_have_one_backward_pass(tmp_path: Path) -> None:
    results = measured(tmp_path / "a.json", "plain,erm", method="ls", steps=0)
    assert step_costs(results)[1].backwards == 1


def test_random_state_and_threads_are_restored(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    measured(tmp_path / "a.json", "samo", case="transformer", steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_results_under_other_conditions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    measured(file, "erm", steps=0)
    with pytest.raises(RunError, match=r"another setting: .*batch"):
        measured(file, "erm", batch=4)
    results = read_json(file)
    results["machine"]["commit"] = "another"
    file.write_text(json.dumps(results))
    with pytest.raises(RunError, match=r"another machine: .*commit"):
        measured(file, "erm")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 99}'])
def test_the_error_names_damaged_results(content: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(RunError, match=r"a\.json"):
        measured(file)
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "lennet"], "unknown case 'lennet', did you mean 'lenet'?"),
        (["--cases", ","], "give at least one case"),
        (["--presets", "smao"], "unknown preset 'smao', did you mean 'samo'?"),
        (["--level", "parameters"], "unknown level 'parameters', did you mean 'parameter'?"),
        (["--method", "fairgrat"], "did you mean 'fairgrad'?"),
        (["--size", "smal"], "unknown size 'smal', did you mean 'small'?"),
        (["--cases", "segnet-mtan", "--tasks", "4"], "must be from 1 to 3; found 4"),
        (["--tasks", "0"], "must be at least 1; found 0"),
        (["--batch", "1"], "the batch must be at least 2"),
        (["--threads", "0"], "threads must be at least 1; found 0"),
        (["--device", "tpu9"], "device must be cpu"),
    ],
)
def test_invalid_arguments_give_an_error_of_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("bench", *arguments, "--out", str(tmp_path / "x"))
    assert (code, out) == (2, "")
    assert err.startswith("samo: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_command_writes_tables_and_figures(tmp_path: Path) -> None:
    command = ["bench", "--size", "small", "--steps", "1", "--threads", "1"]
    command += ["--presets", "erm,samo", "--level", "parameter", "--out", str(tmp_path)]
    code, out, err = run(*command, "--cases", "mlp,lenet")
    assert (code, err) == (0, "")
    assert "mlp: 6 measurements done" in out
    assert "lenet: K = 2" in out
    names = {path.name for path in tmp_path.iterdir()}
    figures = {f"{what}-fairgrad.{kind}" for what in ("time", "memory") for kind in ("png", "svg")}
    tables = {"table.md", "table.csv"}
    assert names == {"mlp-fairgrad.json", "lenet-fairgrad.json", *tables, *figures}
    assert len((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()) == 7
    code, out, _ = run(*command, "--cases", "mlp")
    assert code == 0
    assert "mlp: 0 measurements done" in out
    assert "### lenet" in (tmp_path / "table.md").read_text(encoding="utf-8")  # still there
