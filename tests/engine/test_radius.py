"""The radii: schedules of ρ, and the tasks' own parameters apart from the shared ones."""

from __future__ import annotations

import io
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import samo
from tests.problems import TASKS, X, Y, losses, problem
from tests.tools import Heads, gradients, same

ENGINES: dict[str, Any] = {
    "gsam": samo.GSAM,
    "lsam": samo.LSAM,
    "fmtl": samo.FMTL,
    "samo": samo.SAMO,
    "msam": samo.MSAM,
    "heads": partial(samo.GSAM, rho_own=0.3),
}


def run(preset: str, rhos: Sequence[float], *, start: float | None = None) -> dict[str, Any]:
    """The parameters after a step of SGD at each radius."""
    case = problem("dropout")
    engine = ENGINES[preset](case.model, TASKS, aggregator="mgda", rho=start or rhos[0])
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    torch.manual_seed(0)
    for rho in rhos:
        engine.rho = rho
        assert engine.rho == rho == engine.perturbation.rho
        optimizer.zero_grad()
        engine.backward(partial(losses, case.model))
        optimizer.step()
    return {n: p.detach() for n, p in case.model.named_parameters()}


@pytest.mark.parametrize("preset", ENGINES)
def test_a_radius_counts_from_the_next_step(preset: str) -> None:
    """What it was before is forgotten, and what the engine has learnt is kept."""
    same(run(preset, [0.2, 0.2]), run(preset, [0.2, 0.2], start=0.05))
    assert not torch.equal(
        run(preset, [0.2, 0.2])["trunk.0.weight"], run(preset, [0.2, 0.05])["trunk.0.weight"]
    )


@pytest.mark.parametrize("preset", ["gsam", "lsam", "samo", "msam"])
def test_zero_is_plain_until_it_is_set(preset: str) -> None:
    found = []
    for make in (ENGINES[preset], samo.ERM):
        case = problem("plain")
        options: dict[str, Any] = {} if make is samo.ERM else {"rho": 0.0}
        engine = make(case.model, TASKS, aggregator="mgda", **options)
        result = engine.backward(partial(losses, case.model))
        assert result.perturbed_losses is None
        found.append(gradients(case.model))
    same(*found)


@pytest.mark.parametrize(
    "rho", [1, np.float32(0.5), np.int64(2), torch.tensor(0.25), np.array(0.125)]
)
def test_numbers_of_other_libraries(rho: Any) -> None:
    """They are stored as a ``float``."""
    engine = samo.SAMO(Heads(), TASKS, aggregator="ls", rho=rho, rho_own=rho)
    assert f"rho={float(rho)!r}" in repr(engine)
    engine.rho = rho
    assert type(engine.rho) is float
    assert engine.rho == float(rho)
    case = problem("plain")
    closures = [partial(losses, case.model)] * 2
    samo.ERM(case.model, TASKS, aggregator="ls").backward(closures, batch_size=[rho, {"a": rho}])


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None, torch.ones(2)])
@pytest.mark.parametrize("preset", ["samo", "msam"])
def test_a_radius_out_of_range_changes_nothing(preset: str, value: Any) -> None:
    engine = ENGINES[preset](Heads(), TASKS, aggregator="ls", rho=0.1)
    with pytest.raises(ValueError, match="rho must be a finite number >= 0; found"):
        engine.rho = value
    assert engine.rho == 0.1
    with pytest.raises(ValueError, match=r"rho_own must be None .* or a finite number >= 0; found"):
        samo.Perturbation(0.1, rho_own=-1.0 if value is None else value)


def test_a_radius_that_the_level_does_not_allow() -> None:
    """With ρ > 0 each task has a point of its own; heads only is one point."""
    engine = samo.SAMO(
        Heads(), TASKS, aggregator="mgda", rho=0.0, rho_own=0.1, level="representation"
    )
    with pytest.raises(ValueError, match="evaluates the tasks at points of their own"):
        engine.rho = 0.1
    assert engine.rho == 0.0


def test_without_a_perturbation_there_is_no_radius() -> None:
    engine = samo.ERM(Heads(), TASKS, aggregator="ls")
    assert engine.rho == 0.0
    with pytest.raises(ValueError, match=r"no perturbation.*samo.GSAM\(.., rho=0.0\)"):
        engine.rho = 0.1


SETTINGS = ["model", "tasks", "aggregator", "perturbation", "decompose", "level", "partition"]


@pytest.mark.parametrize("name", [*SETTINGS, "sync_perturbation", "alpha", "rho_own", "Rho"])
def test_nothing_else_can_be_set(name: str) -> None:
    engine = samo.GSAM(Heads(), TASKS, aggregator="ls")
    with pytest.raises(AttributeError, match=f"'{name}' of an engine cannot be set, only 'rho'"):
        setattr(engine, name, None)


@pytest.mark.parametrize("preset", ["gsam", "samo", "msam", "heads"])
def test_a_schedule_survives_a_checkpoint(preset: str) -> None:
    """ρ is state, as an optimizer's learning rate is; ``rho_own`` is configuration."""
    straight = run(preset, [0.1, 0.2, 0.2])
    case = problem("dropout")
    engine = ENGINES[preset](case.model, TASKS, aggregator="mgda", rho=0.1)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    torch.manual_seed(0)
    for rho in (0.1, 0.2):
        engine.rho = rho
        optimizer.zero_grad()
        engine.backward(partial(losses, case.model))
        optimizer.step()
    file = io.BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    resumed = ENGINES[preset](case.model, TASKS, aggregator="mgda", rho=0.1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.rho == 0.2
    optimizer.zero_grad()
    resumed.backward(partial(losses, case.model))
    optimizer.step()
    same({n: p.detach() for n, p in case.model.named_parameters()}, straight)


def test_the_radii_of_heads_and_trunk() -> None:
    """‖ε‖ = ρ and ‖η_i‖ = ρ_own; if ρ_own is None, a schedule of ρ scales both."""
    for rho_own, later in ((0.3, 0.3), (None, 0.2)):
        case = problem("plain")
        far: list[list[float]] = []
        engine = samo.GSAM(case.model, TASKS, aggregator="ls", rho=0.1, rho_own=rho_own)
        start = {n: p.detach().clone() for n, p in case.model.named_parameters()}

        def closure(
            tasks: Sequence[str], case: Any = case, far: Any = far, start: Any = start
        ) -> dict[str, Tensor]:
            away = {n: p.detach() - start[n] for n, p in case.model.named_parameters()}
            parts = [case.shared, *case.own.values()]
            far.append([torch.cat([away[n].flatten() for n in p]).norm().item() for p in parts])
            return losses(case.model, tasks)

        for rho in (0.1, 0.2):
            engine.rho = rho
            engine.backward(closure)
        assert far[1] == pytest.approx([0.1, *[rho_own or 0.1] * 3], rel=1e-10)
        assert far[3] == pytest.approx([0.2, *[later] * 3], rel=1e-10)


def test_both_radii_zero_is_plain() -> None:
    case, plain = problem("dropout"), problem("dropout")
    perturbation = samo.Perturbation(0.0, rho_own=0.0)
    calls = []

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        calls.append(tasks)
        return losses(case.model, tasks)

    torch.manual_seed(0)
    engine = samo.Engine(case.model, TASKS, aggregator="mgda", perturbation=perturbation)
    assert engine.backward(closure).perturbed_losses is None
    torch.manual_seed(0)
    samo.ERM(plain.model, TASKS, aggregator="mgda").backward(partial(losses, plain.model))
    same(gradients(case.model), gradients(plain.model))
    assert len(calls) == 1


class Marked(torch.autograd.Function):
    """The identity, whose node is collected in a list of weak references."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, nodes: list[Any]) -> Tensor:
        nodes.append(weakref.ref(ctx))
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        assert ctx.saved_tensors
        return gradient, None


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_one_graph_at_a_time(rho: float) -> None:
    """The graph of the natural pass is freed before the second pass builds its own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"trunk": nn.Linear(5, 4), **{t: nn.Linear(4, 1) for t in TASKS}})
    model.double()
    nodes: list[Any] = []
    alive = []

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        alive.append(sum(node() is not None for node in nodes))
        h = Marked.apply(model["trunk"](X), nodes)
        return {task: (model[task](h).squeeze(-1) - Y).square().mean() for task in tasks}

    engine = samo.GSAM(model, TASKS, aggregator="mgda", rho=rho, rho_own=0.4)
    engine.backward(closure)
    assert alive == [0, 0]


def test_the_partition_by_names() -> None:
    """What is declared is known at once, the rest from the first step on, or from a state."""
    case = problem("branches")
    engine = samo.ERM(case.model, TASKS, aggregator="mgda")
    assert engine.partition.shared == ()
    assert engine.partition.own == dict.fromkeys(TASKS, ())
    engine.backward(partial(losses, case.model))
    found = engine.partition
    assert list(found.shared) == list(case.shared)
    assert {task: list(names) for task, names in found.own.items()} == case.own
    fresh = samo.ERM(case.model, TASKS, aggregator="mgda")
    fresh.load_state_dict(engine.state_dict())
    assert fresh.partition == found
    heads = {task: case.model.get_submodule(f"heads.{task}") for task in TASKS}
    declared = samo.ERM(case.model, TASKS, aggregator="mgda", own=heads)
    assert declared.partition.own == found.own
    assert set(declared.partition.shared) > set(found.shared)  # all others are
