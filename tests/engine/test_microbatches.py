"""A list of closures: each perturbed along its own gradient, averaged, aggregated once (m-SAM)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import Tensor, nn

import samo
from tests import reference
from tests.problems import TASKS
from tests.tools import Heads, close, gradients, same

RHO = 0.15
SIZES = (5, 3, 4)
METHODS: dict[str, Callable[[], Any]] = {
    "ls": sca.Sum,
    "gls": sca.GeometricMean,
    "mean_aggregator": agg.Mean,
    "upgrad": agg.UPGrad,
    "config": agg.ConFIG,
}
# name: the engine's perturbation, and the reference's arguments
PRESETS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "erm": (None, {"rho": 0.0}),
    "gsam": ({"alpha": 1.0}, {"rho": RHO, "alpha": 1.0}),
    "lsam": ({"alpha": 0.0, "local": samo.ExactGradient()}, {"rho": RHO, "alpha": 0.0}),
    "samo": ({}, {"rho": RHO, "estimate": "spsa"}),
    "heads": ({"rho": 0.0, "rho_own": RHO}, {"rho": 0.0, "rho_own": RHO}),
}


def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in SIZES]


def random_model() -> Heads:
    """With buffers and dropout."""
    torch.manual_seed(5)
    layers: list[nn.Module]
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3)]
    return Heads(nn.Sequential(*layers)).double()


def noise(size):
    """What an engine of seed 0 draws."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.empty(size, dtype=torch.float64).normal_(generator=generator)


def case_of(model, x, tasks=TASKS):
    names = [n for n, _ in model.named_parameters()]

    def losses(model: Any, asked):
        return model.losses(asked, x)

    return reference.Problem(
        model,
        tasks,
        losses,
        [n for n in names if n.startswith("trunk")],
        {task: [n for n in names if n.startswith(f"heads.{task}.")] for task in tasks},
    )


def by_hand(model: Any, method, arguments, *, decompose=False, present=(TASKS,) * 3):
    """The loop over micro-batches, each step by the reference, and one aggregation of the means."""
    make = METHODS[method]
    scalarizer = isinstance(make(), sca.Scalarizer)
    size = sum(p.numel() for p in model.trunk.parameters())
    draws, ones = noise(size), torch.ones_like
    rows: dict[str, list[Tensor]] = {task: [] for task in TASKS}
    natural: dict[str, list[Tensor]] = {task: [] for task in TASKS}
    losses: dict[str, list[Tensor]] = {task: [] for task in TASKS}
    own: dict[str, list[Tensor]] = {}
    for x, tasks in zip(batches(), present, strict=True):
        case = case_of(model, x, tasks)
        grads, matrix = reference.step(case, lambda m, _: m.sum(0), ones, noise=draws, **arguments)
        natural_matrix = matrix
        if decompose:
            _, natural_matrix = reference.step(case, lambda m, _: m.sum(0), ones, rho=0.0)
        for task, row, natural_row in zip(tasks, matrix, natural_matrix, strict=True):
            rows[task].append(row)
            natural[task].append(natural_row)
            for name in case.own[task]:
                own.setdefault(name, []).append(grads[name])
        with torch.no_grad():  # the natural pass, which moves buffers and random numbers on
            for task, loss in model.losses(TASKS, x).items():
                if task in tasks:
                    losses[task].append(loss)
    here = [task for task in TASKS if losses[task]]

    def mean(parts):
        return torch.stack([torch.stack(parts[task]).mean(0) for task in here])

    weights = torch.ones(len(here), dtype=torch.float64)
    if scalarizer:
        leaf = mean(losses).requires_grad_()
        (weights,) = torch.autograd.grad(make()(leaf), leaf)

    def aggregate(matrix):
        return weights @ matrix if scalarizer else make()(matrix)

    update = aggregate(mean(rows))
    if decompose:
        update = aggregate(mean(natural)) + aggregate(mean(rows) - mean(natural))
    named = dict(model.named_parameters())
    shared = [n for n in named if n.startswith("trunk")]
    result: dict[str, Tensor | None] = dict.fromkeys(named)
    parts = update.split([named[n].numel() for n in shared])
    result |= {n: part.view_as(named[n]) for n, part in zip(shared, parts, strict=True)}
    for name, parameters in own.items():
        task = name.split(".")[1]
        result[name] = weights[here.index(task)] * torch.stack(parameters).mean(0)
    return result


def check(model, method, preset, *, decompose=False, present=(TASKS,) * 3, steps=1):
    options, arguments = PRESETS[preset]
    twin = copy.deepcopy(model)
    perturbation = None if options is None else samo.Perturbation(**{"rho": RHO, **options})
    engine = samo.Engine(
        model, TASKS, aggregator=METHODS[method](), perturbation=perturbation, decompose=decompose
    )

    def closure(x, tasks, asked):
        return {t: loss for t, loss in model.losses(asked, x).items() if t in tasks}

    closures = [partial(closure, *item) for item in zip(batches(), present, strict=True)]
    for step in range(steps):
        torch.manual_seed(step)
        # The noise of the second step is the engine's next, the reference begins anew.
        engine.load_state_dict(engine.state_dict() | {"streams": {"seed": 0, "states": {}}})
        want = by_hand(twin, method, arguments, decompose=decompose, present=present)
        rng = torch.get_rng_state()
        torch.manual_seed(step)
        model.zero_grad()
        engine.backward(closures)
        close(gradients(model), want, 1e-9)
        assert torch.equal(torch.get_rng_state(), rng)
        same(dict(model.named_buffers()), dict(twin.named_buffers()))


@pytest.mark.parametrize("method", ["gls", "mean_aggregator", "upgrad", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_loop(preset, method):
    """Task gradients are averaged, then aggregated once; weights are of the averaged losses."""
    check(random_model(), method, preset, steps=2 if (preset, method) == ("samo", "gls") else 1)


@pytest.mark.parametrize("method", ["gls", "upgrad"])
@pytest.mark.parametrize("preset", ["gsam", "lsam", "samo"])
def test_decomposed(preset, method):
    """Decomposed aggregation: of the averaged loss gradients and the averaged flat gradients."""
    check(random_model(), method, preset, decompose=True)


@pytest.mark.parametrize(
    "present",
    [
        (["a"], ["b"], ["c"]),
        (TASKS, ["b"], ["b", "c"]),
        (["a", "c"], ["c"], ["a"]),  # b in none
    ],
)
@pytest.mark.parametrize("method", ["gls", "upgrad"])
@pytest.mark.parametrize(("preset", "decompose"), [("erm", False), ("samo", False), ("lsam", True)])
def test_absent_tasks(preset, decompose, method, present):
    """A task is averaged over the micro-batches that have it; one that is in none has no part."""
    check(random_model(), method, preset, decompose=decompose, present=present, steps=1)


@pytest.mark.parametrize("preset", [samo.ERM, samo.GSAM, samo.LSAM, samo.FMTL, samo.SAMO])
@pytest.mark.parametrize("method", ["ls", "gls", "upgrad"])
def test_a_list_of_one_is_the_closure_itself(preset, method):
    """[closure] gives what closure gives."""
    seen = []
    for wrap in (lambda closure: closure, lambda closure: [closure]):
        model, x = random_model(), batches()[0]
        torch.manual_seed(0)
        result = preset(model, TASKS, aggregator=METHODS[method]()).backward(
            wrap(partial(model.losses, x=x))
        )
        seen.append(gradients(model) | dict(result.losses))
    close(seen[0], seen[1], 1e-14)


@pytest.mark.parametrize("method", ["ls", "gls", "upgrad"])
def test_without_a_perturbation_it_is_the_mean(method):
    """With ρ = 0, micro-batches of one size give the gradients of the batch in one piece."""
    x = torch.randn(8, 4, dtype=torch.float64)
    seen = []
    for parts in ([x], x.split(4), x.split(2)):
        model = Heads().double()
        closures = [partial(model.losses, x=part) for part in parts]
        result = samo.SAMO(model, TASKS, aggregator=METHODS[method](), rho=0.0).backward(closures)
        seen.append(gradients(model) | dict(result.losses))
    close(seen[1], seen[0], 1e-12)
    close(seen[2], seen[0], 1e-12)


def test_each_is_perturbed_along_its_own_gradient():
    """ε differs between micro-batches, and each has norm ρ."""
    model = Heads().double()
    theta = torch.cat([p.detach().flatten() for p in model.trunk.parameters()])
    moves = []

    def closure(x, tasks):
        now = torch.cat([p.detach().flatten() for p in model.trunk.parameters()])
        if not torch.equal(now, theta):
            moves.append(now - theta)
        return model.losses(tasks, x)

    engine = samo.GSAM(model, TASKS, aggregator="ls", rho=RHO)
    engine.backward([partial(closure, x) for x in batches()])
    assert len(moves) == 3
    torch.testing.assert_close(torch.stack(moves).norm(dim=1), torch.full((3,), RHO).double())
    assert torch.pdist(torch.stack(moves)).min() > 1e-3


def test_the_partition_is_found_before_anything_is_evaluated():
    """What the first micro-batch alone would call a task's own is shared, if another reaches it."""
    model = Heads().double()
    points = []

    def closure(x, present, tasks):
        points.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return model.losses([t for t in tasks if t in present], x)

    first, second, _ = batches()
    engine = samo.LSAM(model, ["a", "b"], aggregator="upgrad", rho=RHO)
    result = engine.backward([partial(closure, first, ["a"]), partial(closure, second, ["b"])])
    assert result.gramian is not None
    for point in points[2:]:
        moved = {n for n, p in point.items() if not torch.equal(p, points[0][n])}
        if moved:  # the trunk is shared: ε has norm ρ on it alone, whatever the head's η is
            epsilon = [point[n] - points[0][n] for n in moved if n.startswith("trunk")]
            far = torch.cat([e.flatten() for e in epsilon]).norm().item()
            assert far == pytest.approx(RHO, rel=1e-12)
