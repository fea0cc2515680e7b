"""The monitor: its numbers, its cost, and crashes."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import samo
from samo import StepResult
from samo.analysis import Monitor, history
from samo.training import RunError, configured, train
from tests.problems import TASKS, Multi
from tests.problems import losses as problem_losses


def lines(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "steps.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def numbers(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines without time and checksum."""
    found = lines(directory)
    for line in found:
        del line["time"], line["checksum"]
    return found


def result(step: int, device: str = "cpu") -> StepResult:
    """Makes artificial numbers: loss a = step, b = 2 step, sharpness a = 0.5, b = 1."""
    losses = {"a": torch.tensor(1.0 * step, device=device), "b": torch.tensor(2.0 * step)}
    perturbed = {"a": losses["a"] + 0.5, "b": losses["b"] + 1.0}
    gramian = torch.tensor([[4.0, (-1.0) ** step], [(-1.0) ** step, 9.0]], dtype=torch.float64)
    return StepResult(losses, perturbed, torch.tensor([0.25, 0.75]), gramian)


def log(directory: Path, steps: Sequence[int], **options: Any) -> None:
    with Monitor(directory, **options) as monitor:
        for step in steps:
            monitor.log(result(step))


@pytest.mark.parametrize("decompose", [False, True])
def test_logged_numbers_are_those_of_the_steps(tmp_path: Path, decompose: bool) -> None:
    torch.manual_seed(0)
    model = Multi(nn.Linear(5, 4)).double()
    engine = samo.LSAM(model, TASKS, rho=0.1, aggregator="mgda", decompose=decompose)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    results = []
    with Monitor(tmp_path / "new" / "place") as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            results.append(engine.backward(lambda tasks: problem_losses(model, tasks)))
            monitor.log(results[-1])
            optimizer.step()
    found = lines(tmp_path / "new" / "place")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for line, seen in zip(found, results, strict=True):
        assert seen.gramian is not None
        assert seen.perturbed_losses is not None
        assert seen.weights is not None
        pairs = [(i, j) for i in range(3) for j in range(i)]
        negative = sum(float(seen.gramian[i, j]) < 0 for i, j in pairs)
        assert line["conflicts"] == pytest.approx(negative / 3)
        for i, task in enumerate(TASKS):
            assert line[f"loss/{task}"] == float(seen.losses[task])
            sharp = float(seen.perturbed_losses[task]) - float(seen.losses[task])
            assert line[f"sharpness/{task}"] == pytest.approx(sharp)
            norm = float(seen.gramian[i, i]) ** 0.5
            assert line[f"gradient_norm/{task}"] == pytest.approx(norm)
            rows = seen.weights.view(-1, 3)
            assert line[f"weight/{task}"] == float(rows[0, i])
            assert (f"weight_flat/{task}" in line) == decompose
            if decompose:
                assert line[f"weight_flat/{task}"] == float(rows[1, i])


def test_tensorboard_has_the_same(tmp_path: Path) -> None:
    log(tmp_path, range(1, 6), every=2)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = lines(tmp_path)
    assert set(events.Tags()["scalars"]) == set(found[0]) - {"step", "time", "checksum"}
    for tag in events.Tags()["scalars"]:
        drawn = [(e.step, e.value) for e in events.Scalars(tag)]
        assert [step for step, _ in drawn] == [2, 4, 5]
        np.testing.assert_allclose([v for _, v in drawn], [r[tag] for r in found], rtol=1e-6)


def test_a_line_has_the_means_since_the_one_before(tmp_path: Path) -> None:
    log(tmp_path, range(1, 6), every=3)
    one, two = numbers(tmp_path)
    assert one == {
        "step": 3,
        "loss/a": 2.0,
        "loss/b": 4.0,
        "gradient_norm/a": 2.0,
        "gradient_norm/b": 3.0,
        "conflicts": pytest.approx(2 / 3),
        "weight/a": 0.25,
        "weight/b": 0.75,
        "sharpness/a": 0.5,
        "sharpness/b": 1.0,
    }
    assert (two["step"], two["loss/a"], two["conflicts"]) == (5, 4.5, 0.5)


def test_means_omit_absent_tasks_and_skipped_steps(tmp_path: Path) -> None:
    nan = {"a": torch.tensor(float("nan")), "b": torch.tensor(1.0)}
    with Monitor(tmp_path, every=3) as monitor:
        monitor.log(StepResult({"a": torch.tensor(1.0)}))
        monitor.log(StepResult(nan, overflowed=True))
        monitor.log(StepResult({"a": torch.tensor(3.0), "b": torch.tensor(5.0)}))
        monitor.log(StepResult(nan, overflowed=True))
    one, two = numbers(tmp_path)
    assert one == {"step": 3, "loss/a": 2.0, "loss/b": 5.0, "overflowed": 1}
    assert two == {"step": 4, "overflowed": 1}


class Touched(TorchDispatchMode):
    """Counts the operations on a device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs))
        self.count += any(isinstance(t, Tensor) and t.device.type == "meta" for t in flat)
        return func(*args, **(kwargs or {}))


def test_the_device_is_idle_between_two_lines(tmp_path: Path) -> None:
    """Reading numbers on the meta device, and waiting for them, raises an error."""
    seen = [result(step, "meta") for step in range(1, 5)]
    with Monitor(tmp_path, every=5) as monitor:
        with Touched() as touched:
            for one in seen:
                monitor.log(one)
        assert touched.count == 0
        assert not lines(tmp_path)
        with pytest.raises(NotImplementedError), touched:
            monitor.log(result(5, "meta"))
        assert touched.count > 0
        monitor._step = monitor._log.last  # what cannot be read is not to be written at the end


def test_written_lines_survive_a_crash(tmp_path: Path) -> None:
    """Lines are flushed to the system while the process still runs."""
    with Monitor(tmp_path, every=2) as monitor:
        for step in range(1, 6):
            monitor.log(result(step))
        assert [line["step"] for line in lines(tmp_path)] == [2, 4]


@pytest.mark.parametrize("torn", [1, 20, -2, -1])
def test_a_monitor_continues_after_an_incomplete_line(
    tmp_path: Path, torn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorBoard orders its files by the second of their start, then by name: 10 before 9.
    seconds = itertools.count(time.time())
    monkeypatch.setattr(time, "time", lambda: next(seconds))
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    log(whole, range(1, 9))
    log(broken, range(1, 6))
    file = broken / "steps.jsonl"
    content = file.read_bytes()
    last = content[:-1].rindex(b"\n") + 1
    file.write_bytes(content[:last] + content[last:][:torn])
    with Monitor(broken) as monitor:
        assert monitor.step == 4
        for step in range(5, 9):
            monitor.log(result(step))
        assert monitor.step == 8
    assert numbers(broken) == numbers(whole)
    events = event_accumulator.EventAccumulator(str(broken / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss/a")] == list(range(1, 9))


def test_a_monitor_continues_from_a_checkpoint(tmp_path: Path) -> None:
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    log(whole, range(1, 9), every=2)
    log(broken, range(1, 6), every=2)
    log(broken, range(5, 9), every=2, step=4)
    assert numbers(broken) == numbers(whole)
    log(broken, [], step=0)
    assert lines(broken) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step": 1}\nno json\n{"step": 3}\n', "line 2"),
        ('{"step": 1}\n{"epoch": 2}\n', "line 2"),
        ('{"step": 1}\n[]\n', "line 2"),
        ('{"step": 2}\n{"step": 2}\n', "should be an integer greater than 2"),
        ('{"step": "1"}\n', "found|has step '1'"),
    ],
)
def test_other_files_are_rejected_and_not_changed(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        Monitor(tmp_path)
    with pytest.raises(ValueError, match=message):
        history(tmp_path)
    assert file.read_text() == content


def test_invalid_arguments_raise_errors_and_write_nothing(tmp_path: Path) -> None:
    for options in ({"every": 0}, {"step": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            Monitor(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_the_history_of_a_monitor(tmp_path: Path) -> None:
    with Monitor(tmp_path, every=2) as monitor:
        monitor.log(StepResult({"a": torch.tensor(7.0)}))
        for step in range(2, 6):
            monitor.log(result(step))
    found = history(tmp_path)
    assert (found.unit, found.at) == ("step", (2, 4, 5))
    assert found.values["loss/b"] == (4.0, 7.0, 10.0)
    assert found.by_task("sharpness") == {"a": (0.5, 0.5, 0.5), "b": (1.0, 1.0, 1.0)}
    assert found.by_task("nothing") == {}
    assert "time" not in found.values
    with pytest.raises(ValueError, match="has no log"):
        history(tmp_path / "nowhere")


def test_the_history_of_a_run(tmp_path: Path) -> None:
    config = configured(benchmark="tests.toy:Toy", sharpness="gsam", method="mgda", epochs=3)
    results = train(config, tmp_path)
    found = history(tmp_path)
    assert (found.unit, found.at) == ("epoch", (1, 2, 3))
    for tag, values in found.values.items():
        assert list(values) == [record["steps"][tag] for record in results["history"]]
    kinds = {tag.partition("/")[0] for tag in found.values}
    assert kinds == {"loss", "sharpness", "weight", "gradient_norm", "conflicts"}


def test_a_run_does_not_continue_after_a_damaged_log(tmp_path: Path) -> None:
    config = configured(benchmark="tests.toy:Toy", epochs=2)
    train(config, tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "log.jsonl").write_text("damaged\n")
    with pytest.raises(RunError, match="line 1 of"):
        train(config, tmp_path)
