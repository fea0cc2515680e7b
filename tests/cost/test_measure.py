"""Results on disk: their schema, resuming, and what is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from samo.cost import CASES, Conditions, chosen, conditions, measure, read_results, step_costs
from samo.training import RunError
from tests.cli.test_app import run

STEPS = {"title", "arithmetic", "noise_bytes", "seconds", "aggregating", "peak_bytes"}
BARE = {"forwards", "evaluations", "heads", "backwards", "seconds", "peak_bytes"}


def small(case: str = "mlp", **options: Any) -> Conditions:
    return conditions(case, size="small", threads=1, **options)


def measured(file: Path, names: str = "erm,gsam", **options: Any) -> dict[str, Any]:
    steps = options.pop("steps", 2)
    method = options.get("method", "fairgrad")
    return measure(small(**options), chosen(names.split(","), method), file, steps=steps)


def test_the_schema_of_the_results(tmp_path: Path) -> None:
    results = measured(tmp_path / "a.json", "torchjd,torchjd-batched,erm,samo,samo-rademacher")
    content = json.loads((tmp_path / "a.json").read_text())
    assert results == read_results(tmp_path / "a.json") == content
    assert set(results) == {
        "format",
        "setting",
        "machine",
        "parameters",
        "shared_parameters",
        "one_pass",
        "arithmetic",
        "steps",
    }
    assert results["setting"]["numbers"] == {"tasks": 3, "batch": 8, "inputs": 8, "width": 16}
    assert results["shared_parameters"] == 8 * 16 + 16 + 16 * 16 + 16
    assert results["parameters"] == results["shared_parameters"] + 3 * 17
    assert {"cpu", "cores", "gpu", "torch", "commit"} <= set(results["machine"])
    assert len(results["arithmetic"]) == 2  # ERM's and SAMO's
    for step in results["steps"].values():
        assert set(step) == STEPS
        assert len(step["seconds"]) == len(step["aggregating"]) == 2
        assert all(0 <= a < s for a, s in zip(step["aggregating"], step["seconds"], strict=True))
        assert step["peak_bytes"] > 0
    for bare in results["arithmetic"].values():
        assert set(bare) == BARE
        assert len(bare["seconds"]) == 2


def test_rows_summarise_times_memory_and_passes() -> None:
    results = crafted()
    erm, samo = step_costs(results)
    assert (erm.forwards, erm.evaluations, erm.backwards) == (1, 0, 2)
    assert erm.to_erm is not None
    assert erm.to_erm.median == 1
    assert samo.to_bare is not None
    assert samo.to_bare.median == pytest.approx(1.1)
    assert samo.to_erm is not None
    assert samo.to_erm.median == 3
    assert samo.bare_to_erm is not None
    assert samo.bare_to_erm.median == pytest.approx(3 / 1.1)
    assert samo.aggregating == pytest.approx(0.1)
    assert samo.above_one_pass == pytest.approx((9000 - 1000) / 400)


def crafted(case: str = "mlp", method: str = "fairgrad") -> dict[str, Any]:
    """Makes results in which SAMO takes 3 × ERM and 1.1 × its bare arithmetic in every round."""
    load = [1.0, 5.0, 2.0]
    common: dict[str, Any] = {"title": "a step", "noise_bytes": 0}

    def step(factor: float, peak: int, key: str) -> dict[str, Any]:
        seconds = [factor * x for x in load]
        shares = [0.1 * s for s in seconds]
        return {
            **common,
            "arithmetic": key,
            "seconds": seconds,
            "aggregating": shares,
            "peak_bytes": peak,
        }

    def bare(factor: float, *counts: int) -> dict[str, Any]:
        names = ("forwards", "evaluations", "heads", "backwards")
        seconds = [factor * x for x in load]
        return {**dict(zip(names, counts, strict=True)), "seconds": seconds, "peak_bytes": 900}

    return {
        "format": 1,
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
        "one_pass": {"peak_bytes": 1000},
        "arithmetic": {"x": bare(0.9, 1, 0, 2, 2), "y": bare(3 / 1.1, 3, 4, 8, 3)},
        "steps": {"erm": step(1.0, 3000, "x"), "samo": step(3.0, 9000, "y")},
    }


def test_an_interrupted_measurement_continues(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    taken = 0

    def interrupting(done: int, _total: int) -> None:
        nonlocal taken
        taken = done
        if done == 7:  # memory: 5 measurements; then times
            raise KeyboardInterrupt

    subjects = chosen(["erm", "gsam"], "fairgrad")
    with pytest.raises(KeyboardInterrupt):
        measure(small(), subjects, file, steps=3, watch=interrupting)
    before = read_results(file)
    totals = []
    results = measure(small(), subjects, file, steps=3, watch=lambda _d, t: totals.append(t))
    assert totals[0] == 5 + 3 * 4 - 7
    for part in ("steps", "arithmetic"):
        for name, entry in before[part].items():
            kept = entry["seconds"]
            assert results[part][name]["seconds"][: len(kept)] == kept
            assert len(results[part][name]["seconds"]) == 3
    again = []
    assert measure(small(), subjects, file, steps=2, watch=lambda *d: again.append(d)) == results
    assert again == [(0, 0)]


def test_presets_are_added_to_existing_results(tmp_path: Path) -> None:
    first = measured(tmp_path / "a.json", "erm", steps=1)
    both = measured(tmp_path / "a.json", "lsam", steps=1)
    assert list(both["steps"]) == ["erm", "lsam"]
    assert both["steps"]["erm"] == first["steps"]["erm"]


@pytest.mark.parametrize("case", CASES)
def test_the_peak_of_every_case_includes_the_gradients_that_are_held(
    case: str, tmp_path: Path
) -> None:
    """One pass holds the gradient of every parameter at its end, TorchJD each task's as well.

    Which of the two has the larger peak depends on the processor: their other allocations do.
    """
    results = measured(tmp_path / "a.json", "torchjd", case=case, steps=1)
    tasks, float32 = results["setting"]["numbers"]["tasks"], 4
    assert results["one_pass"]["peak_bytes"] >= float32 * results["parameters"]
    rows_of_tasks = float32 * tasks * results["shared_parameters"]
    assert results["steps"]["torchjd"]["peak_bytes"] >= rows_of_tasks


def test_methods_of_the_losses_have_one_backward_pass(tmp_path: Path) -> None:
    results = measured(tmp_path / "a.json", "torchjd,torchjd-batched,erm", method="ls", steps=1)
    assert list(results["steps"]) == ["torchjd", "erm"]  # there is no Jacobian to batch
    assert {row.backwards for row in step_costs(results)} == {1}


def test_random_state_and_threads_are_restored(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    measured(tmp_path / "a.json", "samo", case="transformer", steps=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_results_under_other_conditions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    measured(file, "erm", steps=0)
    before = file.read_text()
    with pytest.raises(RunError, match=r"another setting: .*batch"):
        measured(file, "erm", batch=4)
    results = json.loads(before)
    results["machine"]["commit"] = "another"
    file.write_text(json.dumps(results))
    with pytest.raises(RunError, match=r"another machine: .*commit"):
        measured(file, "erm")
    results = json.loads(before)
    results["steps"]["erm"]["arithmetic"] = "another"
    file.write_text(json.dumps(results))
    with pytest.raises(RunError, match="has other passes of erm"):
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
    command += ["--presets", "erm,samo", "--out", str(tmp_path)]
    code, out, err = run(*command, "--cases", "mlp,lenet")
    assert (code, err) == (0, "")
    assert "mlp: 9 measurements done" in out
    assert "lenet: K = 2" in out
    names = {path.name for path in tmp_path.iterdir()}
    figures = {f"{what}-fairgrad.{kind}" for what in ("time", "memory") for kind in ("png", "svg")}
    tables = {"table.md", "table.csv"}
    assert names == {"mlp-fairgrad.json", "lenet-fairgrad.json", *tables, *figures}
    assert len((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()) == 5
    code, out, _ = run(*command, "--cases", "mlp")
    assert code == 0
    assert "mlp: 0 measurements done" in out
    assert "### lenet" in (tmp_path / "table.md").read_text(encoding="utf-8")  # still there
