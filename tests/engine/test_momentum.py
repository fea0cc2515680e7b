"""Momentum-SAM: one evaluation, ahead of the parameters along past gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.checkpoint import checkpoint

import samo
from tests.problems import MODELS, TASKS, losses, problem
from tests.snapshots import Expected, identities, values
from tests.tools import Heads, close, gradients, same

RHO = 0.2
LEVELS = ["parameter", "representation"]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def ahead(model: nn.Module, mean: dict[str, Tensor], rho: float = RHO) -> nn.Module:
    """A copy of the model at w - ρ v/‖v‖."""
    copied = copy.deepcopy(model)
    norm = torch.stack([v.square().sum() for v in mean.values()]).sum().sqrt().item()
    with torch.no_grad():
        for name, v in mean.items():
            copied.get_parameter(name).add_(v, alpha=-rho / norm)
    return copied


def trained(name: str, aggregator: str = "mgda", **options: Any) -> tuple[nn.Module, samo.Engine]:
    """A model and an engine that has taken one step on it."""
    model = problem(name).model
    engine = samo.MSAM(model, TASKS, aggregator=aggregator, rho=RHO, **options)
    torch.manual_seed(1)
    engine.backward(partial(losses, model))
    model.zero_grad()
    return model, engine


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_step_is_plain(level: Any) -> None:
    """v = 0 displaces nothing."""
    found = []
    for make in (samo.ERM, partial(samo.MSAM, rho=RHO)):
        case = problem("plain")
        result = make(case.model, TASKS, aggregator="mgda", level=level).backward(
            partial(losses, case.model)
        )
        found.append(gradients(case.model) | dict(result.losses))
    same(*found)


@pytest.mark.parametrize("level", LEVELS)
def test_without_a_radius_every_step_is_plain(level: Any) -> None:
    """And v is learnt all the same, for when the radius is set."""
    found = []
    for make in (samo.ERM, partial(samo.MSAM, rho=0.0)):
        case = problem("dropout")
        engine = make(case.model, TASKS, aggregator="mgda", level=level)
        torch.manual_seed(0)
        for _ in range(3):
            case.model.zero_grad()
            engine.backward(partial(losses, case.model))
        found.append(gradients(case.model))
    same(*found)
    assert engine.state_dict()["mean"].keys() == {n for n, _ in case.model.named_parameters()}


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_distance_is_the_radius(adaptive: bool) -> None:
    """‖displacement‖ = ρ over all parameters together; in units of |w| if adaptive."""
    model, engine = trained("branches", adaptive=adaptive)
    start, seen = parameters_of(model), []

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        away = [(p.detach() - start[n]) for n, p in model.named_parameters()]
        units = [start[n] if adaptive else torch.ones_like(start[n]) for n in start]
        parts = [(a / u)[u != 0].flatten() for a, u in zip(away, units, strict=True)]
        seen.append(torch.cat(parts).norm().item())
        return losses(model, tasks)

    engine.backward(closure)
    assert seen == [pytest.approx(RHO, rel=1e-10)]
    same(parameters_of(model), start)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_one_pass_at_the_point_ahead(name: str) -> None:
    """Losses and buffers are those of the displaced point; parameters are restored bit for bit."""
    model, engine = trained(name)
    there = ahead(model, engine.state_dict()["mean"])
    torch.manual_seed(5)
    want = losses(there, TASKS)
    after = torch.get_rng_state()
    start, known = parameters_of(model), identities(model)
    torch.manual_seed(5)
    result = engine.backward(partial(losses, model))
    close(dict(result.losses), {t: loss.detach() for t, loss in want.items()})
    assert result.perturbed_losses is None
    assert result.sharpness is None
    same(parameters_of(model), start)
    close(dict(model.named_buffers()), dict(there.named_buffers()), 1e-12)
    assert torch.equal(torch.get_rng_state(), after)
    assert identities(model).keys() == known.keys()


class Fails(torch.autograd.Function):
    """The identity, whose backward pass raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, _gradient: Tensor) -> Tensor:
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["before", "after", "backward", "not finite"])
@pytest.mark.parametrize("level", LEVELS)
def test_after_an_exception_the_parameters_are_restored(level: Any, where: str) -> None:
    """And what was learnt is what was known before."""
    model, engine = trained("dropout_heads", level=level)
    before, mean = values(model), engine.state_dict()["mean"]

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        if where == "before":
            raise KeyboardInterrupt
        found = losses(model, tasks)
        if where == "after":
            raise torch.OutOfMemoryError
        if where == "not finite":
            return found | {"b": found["b"] * torch.inf}
        weight = model.get_parameter("trunk.0.weight")
        return {task: loss + Fails.apply(weight.sum()) for task, loss in found.items()}

    with pytest.raises((KeyboardInterrupt, torch.OutOfMemoryError, samo.NonFiniteError)):
        engine.backward(closure)
    same(values(model), before)
    same(engine.state_dict()["mean"], mean)


def test_an_exception_inside_the_model() -> None:
    """Parameters, buffers and random numbers are as the pass at the point ahead leaves them."""
    model, engine = trained("batchnorm")
    there = ahead(model, engine.state_dict()["mean"])
    expected = Expected(there, lambda m: losses(m, TASKS))

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        losses(model, tasks)
        raise KeyboardInterrupt

    start = parameters_of(model)
    with pytest.raises(KeyboardInterrupt):
        engine.backward(closure)
    same(parameters_of(model), start)
    close(dict(model.named_buffers()), dict(expected.model.named_buffers()), 1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_recomputed_activations_are_those_of_the_point_ahead(level: Any) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return found

    found = []
    for wrap in (nn.Sequential, Checkpointed):
        case = problem("dropout")
        trunk = case.model.get_submodule("trunk")
        case.model.trunk = wrap(trunk)
        engine = samo.MSAM(case.model, TASKS, aggregator="mgda", rho=RHO, level=level)
        torch.manual_seed(2)
        for _ in range(2):
            case.model.zero_grad()
            engine.backward(partial(losses, case.model))
        found.append(list(gradients(case.model).values()))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_micro_batches_are_evaluated_at_one_point() -> None:
    model, engine = trained("plain")
    seen: list[dict[str, Tensor]] = []

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        seen.append(parameters_of(model))
        return losses(model, tasks)

    engine.backward([closure, closure, closure])
    together = gradients(model)
    assert len(seen) == 3
    same(seen[0], seen[1])
    same(seen[0], seen[2])
    there = ahead(model, trained("plain")[1].state_dict()["mean"])
    close(seen[0], parameters_of(there), 1e-12)
    model, engine = trained("plain")
    engine.backward(partial(losses, model))
    close(together, gradients(model))


def test_frozen_and_absent() -> None:
    """What is frozen stays where it is; a parameter without a gradient keeps its mean."""
    model, engine = trained("plain")
    mean = engine.state_dict()["mean"]
    model.get_parameter("heads.a.weight").requires_grad_(False)
    start = parameters_of(model)
    moved: list[str] = []

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        moved.extend(n for n, p in model.named_parameters() if not torch.equal(p, start[n]))
        return losses(model, [task for task in tasks if task != "b"])

    engine.backward(closure)
    assert set(moved) == {n for n, v in mean.items() if v.any()} - {"heads.a.weight"}
    after = engine.state_dict()["mean"]
    kept = {n for n in mean if torch.equal(mean[n], after[n])} - {"heads.c.bias"}  # v = 0
    assert kept == {"heads.a.weight", "heads.b.weight", "heads.b.bias"}


@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
def test_what_is_learnt_is_not_scaled(aggregator: str) -> None:
    """With a grad scaler v is the same, bit for bit: the scale is a power of two."""
    found = []
    for scaler in (None, GradScaler("cpu", init_scale=2.0**9)):
        model, engine = Heads(), None
        x = torch.linspace(-2, 2, 28).view(7, 4).sin()
        engine = samo.MSAM(model, TASKS, aggregator=aggregator, rho=RHO)
        for _ in range(3):
            engine.backward(partial(model.losses, x=x), grad_scaler=scaler)
        found.append(engine.state_dict()["mean"])
    same(*found)


def test_gradients_that_were_there_before_are_not_learnt() -> None:
    """v is of what a step adds to ``.grad``, not of the sum."""
    model, engine = trained("plain")
    other, twin = trained("plain")
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.backward(partial(losses, model))
    twin.backward(partial(losses, other))
    same(engine.state_dict()["mean"], twin.state_dict()["mean"])


def test_autocast_does_not_keep_the_parameters_of_before() -> None:
    """A forward pass before the step, in the same region, has cast the parameters already."""
    x = torch.linspace(-2, 2, 28).view(7, 4).sin()
    found = []
    for warm in (False, True):
        model = Heads()
        engine = samo.MSAM(model, TASKS, aggregator="ls", rho=3.0)
        with torch.autocast("cpu", torch.bfloat16):
            engine.backward(partial(model.losses, x=x))
            model.zero_grad()
            if warm:
                model.losses(TASKS, x)
            engine.backward(partial(model.losses, x=x))
        found.append(gradients(model))
    same(*found)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan"), "0.9", None])
def test_a_decay_out_of_range(beta: Any) -> None:
    with pytest.raises(ValueError, match=r"beta must be a number in \[0, 1\); found"):
        samo.Momentum(0.1, beta=beta)


def test_decomposed_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decompose=True needs a samo.Perturbation"):
        samo.Engine(
            Heads(), TASKS, aggregator="ls", perturbation=samo.Momentum(0.1), decompose=True
        )


def test_citation() -> None:
    engine = samo.MSAM(Heads(), TASKS, aggregator="ls", adaptive=True)
    assert "becker2024msam" in engine.citation()
    assert "kwon2021asam" in engine.citation()
    assert "samo" not in engine.citation()
