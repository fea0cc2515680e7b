"""A run that was killed goes on to the same numbers, bit for bit, as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from samo.records import read_json
from samo.records.directory import RunDirectory
from samo.training import Progress, RunConfig, RunError, configured, train

EPOCHS = 4
STEPS = 5  # in an epoch


class Killed(BaseException):
    """As abrupt as an exception can be."""


def config(**changes: Any) -> RunConfig:
    # A method with a state, an estimator that draws, and an optimizer with moments.
    values = {"benchmark": "tests.toy:Toy", "sharpness": "samo", "method": "famo"}
    return configured(**{**values, "epochs": EPOCHS, **changes})


def outcome(directory: Path) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """The results and the log without times, and every tensor of the last state."""
    results = read_json(directory / "results.json")
    del results["timing"]
    log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    for line in log:
        del line["time"], line["timing"], line["checksum"]
    state = torch.load(directory / "checkpoint.pt", weights_only=True)
    return results, log, dict(tensors(state))


def tensors(tree: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(path, tree)]
    if not isinstance(tree, dict | list | tuple):
        return []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [pair for key, item in items for pair in tensors(item, f"{path}/{key}")]


def assert_same(one: Path, other: Path) -> None:
    (results, log, state), (results_2, log_2, state_2) = outcome(one), outcome(other)
    assert results == results_2
    assert log == log_2
    assert state.keys() == state_2.keys()
    differing = [name for name in state if not torch.equal(state[name], state_2[name])]
    assert differing == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    train(config(), directory)
    return directory


@pytest.mark.parametrize(
    ("epoch", "step"), [(1, 1), (1, STEPS), (2, 3), (3, 1), (EPOCHS, 2), (EPOCHS, STEPS)]
)
def test_killed_at_a_step(tmp_path: Path, unbroken: Path, epoch: int, step: int) -> None:
    def kill(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise Killed

    with pytest.raises(Killed):
        train(config(), tmp_path, watch=kill)
    assert not (tmp_path / "results.json").exists()
    train(config(), tmp_path)
    assert_same(tmp_path, unbroken)


@pytest.mark.parametrize("epoch", [1, 2, EPOCHS])
def test_killed_between_the_log_and_the_checkpoint(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    save = RunDirectory.save_checkpoint

    def kill(self: RunDirectory, state: dict[str, Any]) -> None:
        if len(state["history"]) == epoch:
            raise Killed
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_checkpoint", kill)
        with pytest.raises(Killed):
            train(config(), tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == epoch
    train(config(), tmp_path)
    assert_same(tmp_path, unbroken)


def test_killed_while_the_checkpoint_is_written(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def half(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 4:  # after the configuration and two checkpoints
            os.ftruncate(descriptor, 1000)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", half)
        with pytest.raises(Killed):
            train(config(), tmp_path)
    state: Any = RunDirectory(tmp_path).load_checkpoint(config().plain())
    assert state["history"][-1]["epoch"] == 2
    train(config(), tmp_path)
    assert_same(tmp_path, unbroken)


def test_killed_before_the_results_are_written(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("samo.training._train._results", lambda run: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(config(), tmp_path)
    train(config(), tmp_path)
    assert_same(tmp_path, unbroken)


def test_killed_again_and_again(tmp_path: Path, unbroken: Path) -> None:
    for epoch in range(1, EPOCHS + 1):

        def kill(progress: Progress, epoch: int = epoch) -> None:
            if (progress.epoch, progress.step) == (epoch, 4):
                raise Killed

        with pytest.raises(Killed):
            train(config(), tmp_path, watch=kill)
    train(config(), tmp_path)
    assert_same(tmp_path, unbroken)


def test_a_process_killed_by_the_system_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    options = {"benchmark": "tests.toy:Hanging"}
    out, sign = tmp_path / "killed", tmp_path / "sign"
    command = [str(Path(sys.executable).with_name("samo")), "train", "tests.toy:Hanging"]
    command += ["--sharpness", "samo", "--method", "famo", "--epochs", str(EPOCHS)]
    process = subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=Path(__file__).parents[2],  # where the installed command finds `tests.toy`
        env={**os.environ, "TOY_HANGS": str(sign)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not sign.exists():
            assert process.poll() is None, "the process ended before it could be killed"
            time.sleep(0.02)
        assert len((out / "log.jsonl").read_text().splitlines()) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(config(**options), out)
    train(config(**options), tmp_path / "unbroken")
    assert_same(out, tmp_path / "unbroken")


# What a resumed run must not take.


def interrupted(directory: Path, **changes: Any) -> None:
    def kill(progress: Progress) -> None:
        if progress.epoch == 2 and progress.step == 1:
            raise Killed

    with pytest.raises(Killed):
        train(config(**changes), directory, watch=kill)


def refusal(directory: Path, **changes: Any) -> str:
    before = {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}
    with pytest.raises(RunError) as error:
        train(config(**changes), directory)
    after = {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}
    assert after == before
    return str(error.value)


def test_the_directory_of_another_configuration(tmp_path: Path) -> None:
    interrupted(tmp_path)
    message = refusal(tmp_path, rho=0.25, seed=3)
    assert "holds a run of another configuration" in message
    assert "rho (0.05 saved, 0.25 requested)" in message
    assert "seed (0 saved, 3 requested)" in message
    assert "lr" not in message


def test_the_directory_of_a_finished_run_of_another_configuration(
    tmp_path: Path, unbroken: Path
) -> None:
    assert "epochs (4 saved, 5 requested)" in refusal(unbroken, epochs=5)


def test_the_checkpoint_of_another_configuration(tmp_path: Path) -> None:
    interrupted(tmp_path / "a")
    interrupted(tmp_path / "b", lr=0.5)
    (tmp_path / "b" / "checkpoint.pt").replace(tmp_path / "a" / "checkpoint.pt")
    file, _, message = refusal(tmp_path / "a").partition(" belongs to another configuration: ")
    assert file.endswith("checkpoint.pt")
    assert "lr (0.5 saved, 0.01 requested)" in message


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_a_checkpoint_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    interrupted(tmp_path)
    path = tmp_path / "checkpoint.pt"
    if damage == "other":
        torch.save([1, 2, 3], path)
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[:2000], "empty": b"", "text": b"not a checkpoint"}[damage])
    message = refusal(tmp_path)
    assert "checkpoint.pt cannot be read" in message
    assert "Delete it to restart the run" in message
    path.unlink()
    train(config(), tmp_path)


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    interrupted(tmp_path)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["models"]["raw"]["trunk.0.weight"] = torch.zeros(3, 3)
    torch.save(state, path)
    assert "does not fit this version of the benchmark" in refusal(tmp_path)


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    interrupted(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**state, "trap": Trap()}, tmp_path / "checkpoint.pt")
    assert "cannot be read" in refusal(tmp_path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_a_file_that_is_no_json(tmp_path: Path, name: str) -> None:
    interrupted(tmp_path)
    (tmp_path / name).write_text("{")
    assert f"{name} cannot be read" in refusal(tmp_path)


def test_a_directory_in_which_another_process_is_at_work(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"):
        assert "another process is training in" in refusal(tmp_path)


def test_what_cannot_be_run_leaves_no_directory(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunError, match="unknown task 'sgn', did you mean 'sign'"):
        train(config(tasks=("sgn",)), out)
    with pytest.raises(RunError, match="n must be at least 8; found 3"):
        train(config(benchmark_options={"n": 3}), out)
    with pytest.raises(RunError, match="unknown option 'beta'"):
        train(config(method_options={"beta": 3}), out)
    with pytest.raises(RunError, match="device 'abacus' cannot be used"):
        train(config(device="abacus"), out)
    assert not out.exists()
