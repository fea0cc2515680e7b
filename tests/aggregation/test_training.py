"""Every method with every preset trains, and those with a guarantee keep it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import samo
from samo import aggregation, benchmarks
from tests.aggregation.subject import aggregate, gradients, losses_of, make, options

PRESETS: dict[str, Callable[..., Any]] = {
    "erm": samo.ERM,
    "gsam": samo.GSAM,
    "lsam": samo.LSAM,
    "fmtl": samo.FMTL,
    "samo": samo.SAMO,
}


def every_day() -> set[tuple[str, str]]:
    """Each method with a preset, and the methods of each kind with all presets between them.

    A method sees the losses, the Gramian or the rows that a preset leads to, and nothing else of
    it; the engine's way to a step depends on the preset and on what the method needs.
    """
    kinds: dict[str, list[str]] = {}
    for name in aggregation.available():
        kinds.setdefault(aggregation.describe(name).needs, []).append(name)
    chosen = set()
    for names in kinds.values():
        for i in range(max(len(names), len(PRESETS))):
            chosen.add((names[i % len(names)], list(PRESETS)[i % len(PRESETS)]))
    return chosen


EVERY_DAY = every_day()
EVERYTHING = [
    pytest.param(
        name,
        preset,
        id=f"{name}-{preset}",
        marks=[] if (name, preset) in EVERY_DAY else [pytest.mark.slow],
    )
    for name in aggregation.available()
    for preset in PRESETS
    if preset == "gsam" or aggregation.describe(name).needs != "sharpness"
]
# IMTL-G's weights have the sum 1, but any sign: where the sum is negative before it is made 1, the
# direction goes uphill for all tasks.
MAY_GO_UPHILL = {"imtl-g", "imtl"}
# No task's loss rises to first order: g_i . d >= 0. CAGrad guarantees it for c >= 1 alone.
GUARANTEED: dict[str, dict[str, Any]] = {
    "mgda": {},
    "upgrad": {},
    "dualproj": {},
    "cagrad": {"c": 1.0},
    "nash-mtl": {},
    "fairgrad": {},
    "conicgrad": {"c": 0.0},
}
# Relative to the norms of the gradient and of the direction.
TOLERANCE = 1e-3
TASKS = ("a", "b", "c")


class Bowls(nn.Module):
    """l_i = a_i/2 ‖x - c_i‖² + 0.1: the Pareto set is the triangle of the minima c_i."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.minima = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        self.x = nn.Parameter(self.minima.mean(0) + torch.tensor([3.0, -2.0, 2.0, 1.0]).double())

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        here = [TASKS.index(task) for task in tasks]
        away = (self.x - self.minima[here]).square().sum(1) / 2
        return dict(zip(tasks, torch.tensor([0.5, 1.0, 2.0])[here] * away + 0.1, strict=True))

    def distance(self) -> float:
        """To the triangle: to the nearest point of the plane, line or vertex that lies in it."""
        found = []
        x = self.x.detach()
        for corners in [c for n in (1, 2, 3) for c in combinations(range(3), n)]:
            first, *rest = self.minima[list(corners)]
            edges = torch.stack([*(r - first for r in rest), torch.zeros_like(first)])
            part = torch.linalg.lstsq(edges.T, (x - first)[:, None], driver="gelsd").solution[:, 0]
            if (part >= -1e-9).all() and part.sum() <= 1 + 1e-9:
                found.append((x - first - part @ edges).norm().item())
        return min(found)


def train(
    engine: samo.Engine,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Callable[[Sequence[str]], Mapping[str, Tensor]]],
) -> list[Any]:
    """A user's loop: the hooks are called for every method, and not by name."""
    results = []
    for step, losses in enumerate(batches):
        optimizer.zero_grad()
        results.append(engine.backward(losses))
        optimizer.step()
        if engine.needs_losses_after_step:
            with torch.no_grad():
                engine.optimizer_stepped(losses(engine.tasks))
        if step % 10 == 9:
            engine.epoch_ended()
    return results


def engine_of(name: str, preset: str, model: nn.Module, tasks: Sequence[str]) -> samo.Engine:
    method = aggregation.create(name, len(tasks), **options(name, len(tasks)))
    radii = {} if preset == "erm" else {"rho": 0.05}
    if aggregation.describe(name).needs == "sharpness":
        radii["rho_own"] = 0.0
    return PRESETS[preset](model, tasks, aggregator=method, **radii)


@pytest.mark.parametrize(("name", "preset"), EVERYTHING)
def test_bowls(name: str, preset: str) -> None:
    """The losses fall, and the distance to the Pareto set shrinks."""
    model = Bowls()
    engine = engine_of(name, preset, model, TASKS)
    parameters = [*model.parameters(), *engine.aggregator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.3, betas=(0.5, 0.9))
    before = model.distance()
    results = train(engine, optimizer, [model.losses] * 20)
    first, last = ([float(loss) for loss in r.losses.values()] for r in (results[0], results[-1]))
    assert before > 3
    assert torch.tensor(last).isfinite().all()
    if name in MAY_GO_UPHILL:
        return
    assert model.distance() < 0.5 * before
    assert sum(last) < 0.5 * sum(first)


@pytest.fixture(scope="module")
def digits() -> Callable[[int], tuple[benchmarks.Benchmark, list[Any]]]:
    made: dict[str, Any] = {}

    def make(min_tasks: int) -> tuple[benchmarks.Benchmark, list[Any]]:
        name = "digits" if min_tasks <= 2 else "digits-domains"
        if name not in made:
            options = {"pairs": 128} if name == "digits" else {}
            benchmark = benchmarks.create(name, width=16, **options)
            made[name] = benchmark, list(benchmark.batches("train", benchmark.tasks, 32))[:2]
        return made[name]

    return make


@pytest.mark.parametrize(("name", "preset"), EVERYTHING)
def test_digits(name: str, preset: str, digits: Any) -> None:
    """A few steps on real data: finite throughout, and the training losses fall."""
    benchmark, batches = digits(aggregation.describe(name).min_tasks)
    torch.manual_seed(0)
    model = benchmark.model()
    engine = engine_of(name, preset, model, benchmark.tasks)
    parameters = [*model.parameters(), *engine.aggregator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)

    def on(batch: Any) -> Callable[[Sequence[str]], dict[str, Tensor]]:
        return lambda tasks: benchmark.losses(model, batch, tasks)

    results = train(engine, optimizer, [on(batch) for batch in batches] * 3)
    totals = torch.stack([torch.stack(list(r.losses.values())).sum() for r in results])
    assert totals.isfinite().all()
    assert totals[-2:].sum() < totals[:2].sum()


@pytest.mark.parametrize("name", GUARANTEED)
def test_no_task_gets_worse(name: str) -> None:
    """The guarantee, on conflicting gradients of several kinds."""
    for kind in ("random", "conflicting"):
        for k in (2, 3, 11):
            rows = gradients(kind, k)
            direction, _ = aggregate(make(name, k, **GUARANTEED[name]), rows, losses_of(k))
            scale = rows.norm(dim=1) * direction.norm() + 1e-9
            assert (rows @ direction >= -1e-6 * scale).all()


@pytest.mark.parametrize("preset", ["erm", "gsam", "lsam", "samo"])
@pytest.mark.parametrize("name", GUARANTEED)
def test_no_task_gets_worse_in_training(name: str, preset: str, digits: Any) -> None:
    """The same of the gradients that a preset hands over, perturbed or not."""
    benchmark, (batch, *_) = digits(2)
    torch.manual_seed(0)
    model = benchmark.model()
    rho = {} if preset == "erm" else {"rho": 0.05}
    method = aggregation.create(name, 2, **GUARANTEED[name])
    engine = PRESETS[preset](model, benchmark.tasks, aggregator=method, **rho)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for result in train(engine, optimizer, [lambda t: benchmark.losses(model, batch, t)] * 4):
        gramian, weights = result.gramian, result.weights.double()
        improvement = gramian @ weights
        norms = gramian.diagonal().sqrt() * (weights @ improvement).sqrt()
        assert (improvement >= -TOLERANCE * norms).all()
