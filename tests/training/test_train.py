"""Training: what a run writes, what it chooses by, and what it tells the engine."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

import samo
from samo.records import read_json
from samo.training import PRESETS, RunError, configured, train
from samo.training._run import Run
from tests import toy

TOY = "tests.toy:Toy"


@pytest.mark.parametrize("sharpness", ["erm", "samo"])
@pytest.mark.parametrize(
    "benchmark", ["digits", "digits-domains"]
)  # others have tests of their own
def test_every_benchmark_trains(tmp_path: Path, benchmark: str, sharpness: str) -> None:
    options: dict[str, Any] = {"pairs": 64} if benchmark == "digits" else {}
    size = 32 if benchmark == "digits" else 150  # two steps an epoch
    config = configured(
        benchmark=benchmark,
        benchmark_options=options,
        sharpness=sharpness,
        epochs=1,
        batch_size=size,
    )
    steps = []
    results = train(config, tmp_path, watch=lambda p: steps.append(p.step))
    assert steps == [1, 2, 0]
    for task in results["tasks"]:
        assert 0 <= results["selected"]["test"][task]["accuracy"] <= 100
    assert ("sharpness/" + results["tasks"][0] in results["history"][0]["steps"]) == (
        sharpness == "samo"
    )


@pytest.mark.parametrize("method", ["ls", "fairgrad", "uw", "famo", "dwa"])
@pytest.mark.parametrize("sharpness", PRESETS)
def test_every_preset_trains_with_methods_of_each_kind(
    tmp_path: Path, sharpness: str, method: str
) -> None:
    config = configured(benchmark=TOY, method=method, sharpness=sharpness, epochs=2)
    results = train(config, tmp_path)
    assert [record["epoch"] for record in results["history"]] == [1, 2]


@pytest.mark.parametrize("sharpness", ["erm", "gsam"])
def test_the_level_is_the_engine_s(tmp_path: Path, sharpness: str) -> None:
    config = configured(benchmark=TOY, method="mgda", sharpness=sharpness, epochs=1)
    there = config.model_copy(update={"level": "representation"})
    assert Run(config).engine.level == "parameter"
    assert Run(there).engine.level == "representation"
    histories = [train(c, tmp_path / c.level)["history"] for c in (config, there)]
    norms = [history[0]["steps"]["gradient_norm/sign"] for history in histories]
    assert norms[0] != norms[1]


def test_a_preset_with_points_of_its_own_has_one_level(tmp_path: Path) -> None:
    config = configured(benchmark=TOY, method="mgda", sharpness="samo", level="representation")
    with pytest.raises(RunError, match="points of their own"):
        train(config, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    config = configured(benchmark=TOY, sharpness="gsam", method="mgda")
    results = train(config, tmp_path)
    assert read_json(tmp_path / "results.json") == json.loads(json.dumps(results))
    assert read_json(tmp_path / "config.json") == results["config"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for line, record in zip(lines, results["history"], strict=True):
        assert {key: line[key] for key in record} == record
        assert line["timing"]["step_ms"] > 0
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    drawn = [(e.step, e.value) for e in events.Scalars("validation/sign/accuracy")]
    accuracies = [r["validation"]["sign"]["accuracy"] for r in results["history"]]
    assert [step for step, _ in drawn] == [1, 2, 3, 4]
    np.testing.assert_allclose([value for _, value in drawn], accuracies, rtol=1e-6)
    assert results["environment"]["torch"] == torch.__version__
    assert results["timing"]["step_ms"] > 0


def test_the_scores_are_those_of_the_weights_of_the_chosen_epoch(tmp_path: Path) -> None:
    results = train(configured(benchmark=TOY, epochs=8), tmp_path)
    scores = [record["score"] for record in results["history"]]
    assert results["selected"]["epoch"] == 1 + int(np.argmax(scores))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name, weights in (
        ("selected", state["best"]["raw"]["model"]),
        ("last", state["models"]["raw"]),
    ):
        model = toy.Net().eval()
        model.load_state_dict(weights)
        for split in ("validation", "test"):
            x, sign, size = toy.Toy().data[split]
            with torch.no_grad():
                predicted = model(x, ["sign", "size"])
            accuracy = 100 * (predicted["sign"].argmax(1) == sign).double().mean().item()
            error = (predicted["size"].squeeze(1) - size).abs().mean().item()
            found = results[name][split]
            assert found["sign"]["accuracy"] == pytest.approx(accuracy, rel=1e-6)
            assert found["size"]["error"] == pytest.approx(error, rel=1e-5)
        validation = results[name]["validation"]
        score = (validation["sign"]["accuracy"] - validation["size"]["error"]) / 2
        assert results[name]["score"] == pytest.approx(score)
    assert results["last"]["epoch"] == 8


def test_test_data_is_not_looked_at_before_training_is_over(tmp_path: Path) -> None:
    toy.ASKED_FOR.clear()
    train(configured(benchmark=TOY, epochs=3), tmp_path)
    assert toy.ASKED_FOR[:9] == ["train", "validation", "train"] * 3
    assert sorted(toy.ASKED_FOR[9:]) == ["test", "test", "validation", "validation"]


def test_one_task_alone_is_a_single_task_baseline(tmp_path: Path) -> None:
    results = train(configured(benchmark=TOY, tasks=("size",)), tmp_path)
    assert list(results["selected"]["test"]) == ["size"]
    weights = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["models"]["raw"]
    torch.manual_seed(0)
    untouched = toy.Net().state_dict()
    moved = [name for name in weights if not torch.equal(weights[name], untouched[name])]
    assert moved == ["trunk.0.weight", "trunk.0.bias", "heads.size.weight", "heads.size.bias"]


def test_the_seed_decides_all(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        config = configured(benchmark=TOY, sharpness="samo", method="rlw", seed=seed)
        train(config, tmp_path / name)
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["models"]["raw"]

    first = weights("a", 0)
    torch.rand(7)
    again, other = weights("b", 0), weights("c", 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_caller_s_generators_and_threads_are_left_alone(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    train(configured(benchmark=TOY, threads=threads + 1), tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_gradients_are_clipped_together_and_only_if_asked(tmp_path: Path) -> None:
    def norms(clip: float | None) -> list[float]:
        torch.manual_seed(0)
        run = Run(configured(benchmark=TOY, clip=clip))
        seen = []

        def look(*_: Any) -> None:
            grads = [p.grad for p in run.model.parameters() if p.grad is not None]
            seen.append(torch.cat([g.flatten() for g in grads]).norm().item())

        run.optimizer.register_step_pre_hook(look)
        run.train_epoch()
        return seen

    free, clipped = norms(None), norms(0.1)
    assert min(free) > 0.1
    assert clipped == pytest.approx([0.1] * len(clipped), rel=1e-4)


def test_a_method_s_own_parameters_are_trained_and_do_not_decay(tmp_path: Path) -> None:
    run = Run(configured(benchmark=TOY, method="uw", weight_decay=0.3))
    own = list(run.engine.aggregator.parameters())
    before = [parameter.clone() for parameter in own]
    run.train_epoch()
    assert own
    assert all(not torch.equal(a, b) for a, b in zip(own, before, strict=True))
    decay = {id(p): g["weight_decay"] for g in run.optimizer.param_groups for p in g["params"]}
    assert [decay[id(parameter)] for parameter in own] == [0.0] * len(own)
    assert {decay[id(parameter)] for parameter in run.model.parameters()} == {0.3}


def test_methods_that_learn_from_the_losses_after_the_step_are_told_them(tmp_path: Path) -> None:
    run = Run(configured(benchmark="digits", benchmark_options={"pairs": 64}, method="famo"))
    told = []
    original = run.engine.optimizer_stepped

    def spy(losses: Any) -> None:
        told.append({task: loss.item() for task, loss in losses.items()})
        expected.append({task: loss.item() for task, loss in now().items()})
        original(losses)

    def now() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return run.benchmark.losses(run.model, batch, run.tasks)

    expected: list[dict[str, float]] = []
    run.engine.optimizer_stepped = spy  # type: ignore[method-assign]
    batch = next(iter(run.training_data))
    before = {task: loss.item() for task, loss in now().items()}
    run._step(batch)
    assert told == expected
    assert told[0] != before


def test_methods_that_count_epochs_are_told_of_each(monkeypatch, tmp_path: Path) -> None:
    told = []
    monkeypatch.setattr(samo.Engine, "epoch_ended", lambda self: told.append(self))
    train(configured(benchmark=TOY, method="dwa", epochs=3), tmp_path)
    assert len(told) == 3


def test_a_finished_run_is_read_and_not_made_again(tmp_path: Path) -> None:
    config = configured(benchmark=TOY, epochs=1)
    first = train(config, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != ".lock"}
    told: list[Any] = []
    assert train(config, tmp_path, watch=told.append) == json.loads(json.dumps(first))
    assert told == []
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != ".lock"}
    assert after == before


def test_a_run_that_diverges_says_so_and_can_be_told_from_a_finished_one(tmp_path: Path) -> None:
    config = configured(benchmark=TOY, optimizer="sgd", lr=1e30, epochs=1)
    with pytest.raises((samo.NonFiniteError, samo.training.RunError)):
        train(config, tmp_path)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.gpu
def test_training_on_a_gpu(tmp_path: Path) -> None:
    config = configured(benchmark="digits", sharpness="samo", epochs=2, device="cuda")
    results = train(config, tmp_path)
    assert results["environment"]["device"] != "cpu"
    assert results["history"][1]["score"] > results["history"][0]["score"]
