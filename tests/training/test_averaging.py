"""Averaged weights: what is averaged, what it scores, and that a killed run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from samo.benchmarks import Split, TensorBatches
from samo.records import read_json
from samo.records.schema import of_weights, weights_of
from samo.training import Progress, RunError, configured, reported, train, trained
from samo.training._averaging import recompute_statistics
from samo.training._run import Run
from samo.training._seeding import seeded
from tests import toy
from tests.training.test_resume import Killed, assert_same

TOY = "tests.toy:Toy"
NORMED = "tests.training.test_averaging:Normed"
DECAY = 0.9


class Normed(toy.Toy):
    """The toy with BatchNorm in the trunk and a head, and an integer buffer, without jitter."""

    def model(self) -> nn.Module:
        net = toy.Net()
        net.trunk = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU())
        net.heads["size"] = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        net.register_buffer("positions", torch.arange(50))
        return net

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> Any:
        batches = TensorBatches(self.data[split], batch_size, generator)
        return _Named(batches)


class _Named:
    def __init__(self, batches: TensorBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        for x, sign, size in self.batches:
            yield {"x": x, "sign": sign, "size": size}


def scores(model: nn.Module, split: Split) -> dict[str, float]:
    x, sign, size = Normed().data[split]
    with torch.no_grad():
        found = model.eval()(x, ["sign", "size"])
    accuracy = 100 * (found["sign"].argmax(1) == sign).double().mean().item()
    return {"sign": accuracy, "size": (found["size"].squeeze(1) - size).abs().mean().item()}


@pytest.mark.parametrize("sharpness", ["erm", "gsam", "samo"])
def test_with_batchnorm_the_average_is_that_of_torch_s_recipe(sharpness: str) -> None:
    config = configured(benchmark=NORMED, sharpness=sharpness, epochs=3, ema=DECAY)
    with seeded(0, 1):
        run = Run(config)

        def average(mean: Tensor, new: Tensor, t: Any) -> Tensor:
            decay = min(DECAY, (1 + int(t)) / (10 + int(t)))
            return decay * mean + (1 - decay) * new

        reference = AveragedModel(run.model, avg_fn=average)
        run.optimizer.register_step_post_hook(lambda *_: reference.update_parameters(run.model))
        for _ in range(3):
            run.train_epoch()
            x, *_ = Normed().data["train"]
            both = _Both(reference.module)
            update_bn(x.split(config.batch_size), both)
            expected, found = reference.module.state_dict(), run.models["ema"].state_dict()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(found["positions"], torch.arange(50))
            record = run.history[-1]["ema"]["validation"]
            for task, value in scores(reference.module, "validation").items():
                metric = {"sign": "accuracy", "size": "error"}[task]
                assert record[task][metric] == pytest.approx(value, rel=1e-5)


class _Both(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x, ["sign", "size"])


class Frozen(nn.BatchNorm1d):
    """BatchNorm that stays in eval mode, as in fine-tuning."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(mode=False)


def test_statistics_of_frozen_layers_are_kept() -> None:
    net: Any = Normed().model()
    frozen: Any = Frozen(16)
    frozen.running_mean += 3.0
    net.trunk[1] = frozen
    with seeded(0, 1):
        batches = Normed().batches("train", ["size"], 8)
        recompute_statistics(Normed(), net, ["size"], batches, torch.device("cpu"))
    assert torch.equal(frozen.running_mean, torch.full((16,), 3.0))
    assert net.heads["size"][1].num_batches_tracked == 5


@pytest.mark.parametrize("benchmark", [TOY, NORMED])
def test_raw_weights_score_as_without_an_average(tmp_path: Path, benchmark: str) -> None:
    plain = train(configured(benchmark=benchmark, sharpness="samo"), tmp_path / "plain")
    both = train(configured(benchmark=benchmark, sharpness="samo", ema=DECAY), tmp_path / "both")
    assert weights_of(plain["config"]) == ("raw",)
    assert weights_of(both["config"]) == ("raw", "ema")
    assert "ema" not in plain
    for part in ("last", "selected"):
        assert both[part] == plain[part]
    assert [without_ema(record) for record in both["history"]] == plain["history"]


def without_ema(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "ema"}


@pytest.mark.parametrize("average_last", [0, 2])
def test_the_average_has_scores_and_a_best_epoch_of_its_own(
    tmp_path: Path, average_last: int
) -> None:
    config = configured(benchmark=NORMED, epochs=5, ema=DECAY, average_last=average_last)
    train(config, tmp_path)
    results = of_weights(read_json(tmp_path / "results.json"), "ema")
    by_epoch = [record["score"] for record in results["history"]]
    assert results["selected"]["epoch"] == 1 + int(np.argmax(by_epoch))
    model = trained(tmp_path, "ema").model
    for split in ("validation", "test"):
        found = results["selected"][split]
        expected = scores(model, split)
        assert found["sign"]["accuracy"] == pytest.approx(expected["sign"], rel=1e-6)
        assert found["size"]["error"] == pytest.approx(expected["size"], rel=1e-5)
    assert results["last"]["validation"] == results["history"][-1]["validation"]
    if average_last:
        assert reported(results)["epochs"] == [4, 5]
        mean = np.mean([r["test"]["size"]["error"] for r in results["history"][-2:]])
        assert reported(results)["test"]["size"]["error"] == pytest.approx(mean)


@pytest.mark.parametrize("benchmark", [TOY, NORMED])
@pytest.mark.parametrize(("epoch", "step"), [(1, 3), (3, 1), (4, 5)])
def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, benchmark: str, epoch: int, step: int
) -> None:
    config = configured(benchmark=benchmark, sharpness="samo", method="famo", epochs=4, ema=DECAY)

    def kill(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "killed", watch=kill)
    train(config, tmp_path / "killed")
    train(config, tmp_path / "unbroken")
    assert_same(tmp_path / "killed", tmp_path / "unbroken")


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(RunError, match=f"ema = {decay}"):
        configured(benchmark=TOY, ema=decay)


def test_weights_that_a_run_does_not_have(tmp_path: Path) -> None:
    train(configured(benchmark=TOY, epochs=1), tmp_path)
    with pytest.raises(RunError, match="must be one of raw; found 'ema'"):
        trained(tmp_path, "ema")
