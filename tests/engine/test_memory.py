"""How much memory a step takes, in units of the m shared parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import samo

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


def in_units_of_m(preset: str, aggregator: str) -> float:
    """The peak of two steps, above that of a forward and a backward pass."""
    model, x = Wide(), torch.randn(2, 500)

    def plain() -> None:
        losses = model.losses(x, TASKS)
        torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(model.parameters()))

    engine = getattr(samo, preset)(model, TASKS, aggregator=aggregator)

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
