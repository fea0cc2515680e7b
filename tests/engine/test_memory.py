"""How much memory a step takes, in units of the m shared parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import samo
from samo.benchmarks.networks import SegNetMTAN

K = 40
TASKS = [f"t{i}" for i in range(K)]


class Wide(nn.Module):
    """Many shared parameters, few own ones, and small activations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(500, 2000), nn.Tanh(), nn.Linear(2000, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})
        self.m = sum(parameter.numel() for parameter in self.trunk.parameters())

    def losses(self, x: Tensor, tasks: list[str]) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {task: self.heads[task](h).square().mean() for task in tasks}


def peak(run: Callable[[], object]) -> int:
    """The largest number of bytes that are allocated at once, above those of the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    kineto: Any = profiled.profiler
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    now = most = 0
    for event in events:
        now += event.nbytes()
        most = max(most, now)
    return most


def in_units_of_m(preset: str, aggregator: str, **options: Any) -> float:
    """The peak of two steps, above that of a forward and a backward pass."""
    model, x = Wide(), torch.randn(2, 500)

    def plain() -> None:
        losses = model.losses(x, TASKS)
        torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(model.parameters()))

    engine = getattr(samo, preset)(model, TASKS, aggregator=aggregator, **options)

    def steps() -> None:
        for _ in range(2):
            engine.backward(partial(model.losses, x))
            model.zero_grad()

    plain()
    base = peak(plain)
    assert base >= 4 * model.m
    return (peak(steps) - base) / (4 * model.m)


@pytest.mark.parametrize("preset", ["ERM", "GSAM", "SAMO"])
def test_a_gradient_a_task(preset):
    """A method of the Gramian needs the task gradients, and four vectors more at most."""
    assert K - 1 < in_units_of_m(preset, "fairgrad") <= K + 4


@pytest.mark.parametrize("preset", ["ERM", "GSAM", "LSAM", "FMTL", "SAMO"])
def test_weights_known_first(preset):
    """Where the weights are known before the gradients, the number of tasks does not matter."""
    assert in_units_of_m(preset, "ls") <= 5


@pytest.mark.parametrize(("preset", "vectors"), [("ERM", 3), ("GSAM", 5)])
def test_representation(preset: str, vectors: int) -> None:
    """No gradient a task: G-SAM keeps θ and ε besides the gradient."""
    assert in_units_of_m(preset, "fairgrad", level="representation") <= vectors


class Maps(nn.Module):
    """A trunk of small layers with many large outputs, all of which each task reads."""

    def __init__(self, tasks: Sequence[str], layers: int = 6, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.masks: Any = nn.ModuleDict(
            {t: nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for t in tasks}
        )

    def losses(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        maps = [x := layer(x).tanh() for layer in self.trunk]
        found = {}
        for task in tasks:
            read = torch.zeros(())
            for map_, mask in zip(maps, self.masks[task], strict=True):
                read = (map_ * mask(map_ + read).sigmoid()).tanh()
            found[task] = read.square().mean()
        return found


def test_large_representations() -> None:
    """The cotangents of a task take the place of its own activations."""
    x, tasks = torch.randn(3000, 64), TASKS[:4]
    peaks = []
    for level in (None, "representation"):
        model = Maps(tasks)
        if level is None:
            run = partial(plain, model, x, tasks)
        else:
            engine: Any = samo.ERM(model, tasks, aggregator="mgda", level=level)
            run = partial(engine.backward, partial(model.losses, x))
        run()
        model.zero_grad()
        peaks.append(peak(run))
    cut = 6 * 4 * x.numel()
    assert peaks[1] <= peaks[0] + 2 * cut < peaks[0] + len(tasks) * cut


def plain(model: Maps, x: Tensor, tasks: Sequence[str]) -> None:
    """A plain backward pass."""
    sum(model.losses(x, tasks).values(), torch.zeros(())).backward()


@pytest.mark.slow
def test_dense_network() -> None:
    """SegNet-MTAN takes no more than at the parameters."""
    tasks = {"segmentation": 13, "depth": 1, "normal": 3}
    network, x = SegNetMTAN(tasks, width=8), torch.randn(1, 3, 288, 384)

    def losses(asked: Sequence[str]) -> dict[str, Tensor]:
        return {task: out.square().mean() for task, out in network(x, asked).items()}

    peaks = {}
    for level in ("parameter", "representation"):
        engine: Any = samo.ERM(network, list(tasks), aggregator="fairgrad", level=level)
        engine.backward(losses)
        network.zero_grad()
        peaks[level] = peak(partial(engine.backward, losses))
    assert peaks["representation"] <= peaks["parameter"]
