"""Compiled models, modules and closures: they agree with eager ones, and are compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import samo
from tests.tools import Closure, close, gradients

TASKS = ["a", "b"]
PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {"aggregator": "mgda"}),
    "gsam": (samo.GSAM, {"aggregator": "ls"}),
    "lsam": (samo.LSAM, {"aggregator": "ls"}),
    "fmtl": (samo.FMTL, {"aggregator": "upgrad"}),
    "samo": (samo.SAMO, {"aggregator": "mgda"}),
}
KINDS = ["model", "in place", "part", "closure"]


class Net(nn.Module):
    """A trunk with batch normalisation, and a linear head for each task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk: Any = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(6, 2) for task in TASKS})

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {task: self.heads[task](h) for task in tasks}


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    """How many graphs were compiled by now."""
    return counters["stats"]["unique_graphs"]


def compiled(kind: str, net: Net, **options: Any) -> Callable[[Tensor], Closure]:
    """Something of the model, or all, compiled; from a batch to its closure."""
    called: Any = net
    if kind == "model":
        called = torch.compile(net, **options)
    elif kind == "in place":
        net.compile(**options)
    elif kind == "part":
        net.trunk = torch.compile(net.trunk, **options)

    def losses(x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        return {task: out.sin().square().mean() for task, out in called(x, tasks).items()}

    whole: Any = torch.compile(losses, **options) if kind == "closure" else losses
    return lambda x: lambda tasks: whole(x, tasks)


def train(
    net: Net, preset: str, closure: Callable[[Tensor], Closure], sizes: Sequence[int]
) -> tuple[list[int], dict[str, Any]]:
    """Steps on batches of some sizes: how many graphs there were after each, and what it led to."""
    make, options = PRESETS[preset]
    own = {task: net.heads[task] for task in TASKS}
    engine = make(net, TASKS, own=own, rho=0.1, **options) if preset != "erm" else None
    engine = engine or make(net, TASKS, own=own, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen, generator = [], torch.Generator().manual_seed(0)
    for size in sizes:
        x = torch.randn(size, 4, generator=generator)
        optimizer.zero_grad()
        engine.backward(closure(x))
        optimizer.step()
        seen.append(graphs())
    values = gradients(net) | {n: b.clone() for n, b in net.named_buffers()}
    return seen, {name.replace("_orig_mod.", ""): value for name, value in values.items()}


def check(kind: str, preset: str, sizes: Sequence[int], settled: int, **options: Any) -> None:
    """Compiled and eager agree, and from some step on nothing more is compiled."""
    net, eager = Net(), Net()
    seen, found = train(net, preset, compiled(kind, net, **options), sizes)
    assert seen[0] > 0, "nothing was compiled"
    assert seen[settled - 1 :] == seen[-1:] * (len(sizes) - settled + 1), seen
    torch._dynamo.reset()
    _, wanted = train(eager, preset, lambda x: lambda tasks: _losses(eager, x, tasks), sizes)
    close(found, wanted, 1e-5)


def _losses(net: Net, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    return {task: out.sin().square().mean() for task, out in net(x, tasks).items()}


@pytest.mark.parametrize(
    ("kind", "preset"),
    [("model", "samo"), ("in place", "lsam"), ("part", "samo"), ("closure", "lsam")],
)
def test_nothing_is_compiled_after_the_second_step(preset: str, kind: str) -> None:
    """Perturbed parameters, stand-ins for buffers and hooks make no graph invalid."""
    check(kind, preset, [8] * 4, settled=2, backend="eager")


@pytest.mark.parametrize(("kind", "preset"), [("in place", "erm"), ("part", "fmtl")])
def test_graphs_with_backward_passes(kind: str, preset: str) -> None:
    """Where forward and backward pass are compiled, a retained graph serves all tasks."""
    check(kind, preset, [8] * 4, settled=2, backend="aot_eager")


@pytest.mark.parametrize("preset", ["erm", "lsam"])
def test_a_last_batch_of_another_size(preset: str) -> None:
    """It is compiled for any size then, once, and can be differentiated once a task still."""
    check("part", preset, [8, 8, 5, 8, 3], settled=3, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["lsam", "samo"])
def test_inductor(kind: str, preset: str, mode: str) -> None:
    """The default backend, which generates code."""
    check(kind, preset, [8] * 4, settled=2, mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inductor_and_a_last_batch_of_another_size(kind: str) -> None:
    """What it generates for any size agrees, too."""
    check(kind, "samo", [8, 8, 5, 8, 3], settled=3)
