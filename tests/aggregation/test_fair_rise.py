"""Weights that follow the rise of the losses: their fixed point, and the engine's part in it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torchjd.scalarization import Scalarizer

import samo
from samo.aggregation import FairGrad, FairRise, SeesSharpness
from tests.aggregation.subject import gradients
from tests.tools import Quadratics, same

TASKS = ("a", "b", "c")
RHO = 0.05


def updated(
    w: Tensor, m: Tensor, s: Tensor, alpha: float, gamma: float = 0.1
) -> tuple[Tensor, Tensor]:
    """One update of all weights, from the equations."""
    c = sum(w[i] * s[i] for i in range(len(w))) / sum(v ** (1 - 1 / alpha) for v in w)
    u = torch.stack([s[i] * w[i] ** (1 / alpha) / c for i in range(len(w))])
    m = 0.9 * m + 0.1 * (u - 1) / (1 + u.abs())
    w = w * torch.exp(-gamma * m)
    return len(w) * w / w.sum(), m


def converged(gramian: Tensor, alpha: float, steps: int) -> Tensor:
    """The weights after steps on linear losses, whose gradients are always the same."""
    method = FairRise(len(gramian), alpha=alpha)
    for _ in range(steps):
        w = method.weights
        rises = gramian @ w / (w @ gramian @ w).sqrt()
        method.see_sharpness(rises, torch.arange(len(w)))
    return method.weights


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", ["random", "scaled", "conflicting", "nearly opposite"])
def test_the_fixed_point_is_alpha_fair(kind: str, alpha: float) -> None:
    """G w = w^(-1/alpha) up to a factor: the direction of FairGrad, which solves it exactly."""
    k = 4
    rows = gradients("random", k)
    if kind == "scaled":
        rows = rows * torch.logspace(-1, 1, k, dtype=rows.dtype)[:, None]
    elif kind == "conflicting":
        rows = rows - 0.7 * rows.mean(0)
    elif kind == "nearly opposite":
        rows = 0.3 * rows + gradients("opposite", k)
    gramian = rows @ rows.T
    w = converged(gramian, alpha, 1200)
    shares = (gramian @ w) * w ** (1 / alpha)
    torch.testing.assert_close(shares / shares.mean(), torch.ones_like(w), rtol=1e-5, atol=1e-5)
    exact = FairGrad(alpha).gramian_weighting(gramian)
    torch.testing.assert_close(w, k * exact / exact.sum(), rtol=1e-4, atol=1e-8)


def test_a_task_that_gets_worse_gets_more_weight() -> None:
    method = FairRise(3)
    method.see_sharpness(torch.tensor([1.0, -0.5, 0.7]).double(), torch.arange(3))
    assert method.weights[1] > 1 > method.weights[0]
    assert method.weights.sum().item() == pytest.approx(3)


def test_what_does_not_rise_or_is_absent_stays() -> None:
    method = FairRise(4)
    method.see_sharpness(torch.tensor([2.0, 0.0, 0.5]).double(), torch.tensor([0, 1, 3]))
    assert method.weights[1] == method.weights[2] == 1
    assert method.weights[0] < 1 < method.weights[3]
    assert method.weights.sum().item() == pytest.approx(4)


@pytest.mark.parametrize("rises", [[0.0, 0.0], [-1.0, 0.5], [-1.0, -1.0]])
def test_a_step_that_does_not_raise_the_weighted_loss_teaches_nothing(rises: list[float]) -> None:
    method = FairRise(2)
    method.see_sharpness(torch.tensor(rises).double(), torch.arange(2))
    assert method.weights.tolist() == [1, 1]


class Naive:
    """G-SAM of the shared parameters along the weighted gradient, by the closed form."""

    def __init__(self, model: Quadratics, alpha: float) -> None:
        self.model, self.alpha = model, alpha
        self.w, self.m = (torch.full((len(TASKS),), v, dtype=torch.float64) for v in (1.0, 0.0))

    def step(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradients of a step, after which the weights are updated."""
        model = self.model
        weights = dict(zip(TASKS, self.w, strict=True))
        d = sum(weights[t] * model.gradient(t) for t in TASKS)
        there = model.x.detach() + RHO * d / d.norm()
        shared = sum(weights[t] * model.gradient(t, there) for t in TASKS)
        own = {t: weights[t] * model.b[t] * (model.y[t].detach() - 1) for t in TASKS}

        def loss(task: str, x: Tensor) -> Tensor:
            away = x - model.c[task]
            return 0.5 * away @ model.A[task] @ away

        rises = torch.stack([loss(t, there) - loss(t, model.x.detach()) for t in TASKS])
        self.w, self.m = updated(self.w, self.m, rises, self.alpha)
        return shared, own


def engine_of(model: nn.Module, method: Any, **options: Any) -> Any:
    return samo.GSAM(model, TASKS, aggregator=method, rho=RHO, rho_own=0.0, **options)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("batches", [1, 2])
def test_steps_are_those_of_a_naive_implementation(alpha: float, batches: int) -> None:
    """For micro-batches too: here all of them are the same, so their mean is each of them."""
    model = Quadratics(TASKS)
    method, naive = FairRise(3, alpha=alpha), Naive(model, alpha)
    engine = engine_of(model, method)
    closures = model.losses if batches == 1 else [model.losses] * batches
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(10):
        shared, own = naive.step()
        optimizer.zero_grad()
        engine.backward(closures)
        torch.testing.assert_close(model.x.grad, shared, rtol=1e-10, atol=1e-10)
        for task in TASKS:
            torch.testing.assert_close(model.y[task].grad, own[task], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(method.weights, naive.w, rtol=1e-10, atol=1e-10)
        optimizer.step()


def test_passes_of_a_step() -> None:
    """Two forward and two backward passes of the trunk, whatever K is."""
    model, counts = Quadratics(TASKS), {"forward": 0, "backward": 0}

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        counts["forward"] += 1
        x = model.x * 1.0
        x.register_hook(lambda _: counts.__setitem__("backward", counts["backward"] + 1))
        return {t: 0.5 * (x - model.c[t]) @ model.A[t] @ (x - model.c[t]) for t in tasks}

    engine = engine_of(model, "fair-rise", shared=[model.x], own={"a": [model.y]})
    for _ in range(2):
        counts.update(forward=0, backward=0)
        engine.backward(losses)
    assert counts == {"forward": 2, "backward": 2}


def test_without_a_radius_it_is_the_sum_of_the_losses() -> None:
    """A schedule may start at ρ = 0: the weights stay as they are."""
    model, other = Quadratics(TASKS), Quadratics(TASKS)
    engine = engine_of(model, "fair-rise")
    engine.rho = 0.0
    engine.backward(model.losses)
    samo.ERM(other, TASKS, aggregator="ls").backward(other.losses)
    torch.testing.assert_close(model.x.grad, other.x.grad)
    engine.rho = RHO
    engine.backward(model.losses)
    assert engine.aggregator.weights.unique().numel() == 3


def test_continues_bit_for_bit() -> None:
    model: Any = Quadratics(TASKS)
    engine = engine_of(model, "fair-rise")
    for _ in range(3):
        engine.backward(model.losses)
    file = io.BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    fresh = engine_of(model, "fair-rise")
    fresh.load_state_dict(torch.load(file, weights_only=True))
    found = []
    for it in (engine, fresh):
        model.zero_grad()
        it.backward(model.losses)
        found.append({"x": model.x.grad.clone(), "w": it.aggregator.weights})
    same(*found)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_that_fails_teaches_nothing(scaled: bool) -> None:
    """Not if the second pass fails, and not if the step overflows."""
    model = Quadratics(TASKS)
    engine = engine_of(model, "fair-rise")
    engine.backward(model.losses)
    before, calls = engine.aggregator.weights.clone(), []

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        calls.append(tasks)
        factor = torch.inf if len(calls) > 1 else 1.0
        return {task: factor * loss for task, loss in model.losses(tasks).items()}

    if scaled:
        assert engine.backward(losses, grad_scaler=GradScaler("cpu", init_scale=4.0)).overflowed
    else:
        with pytest.raises(samo.NonFiniteError, match="perturbed loss"):
            engine.backward(losses)
    assert torch.equal(engine.aggregator.weights, before)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_a_grad_scaler_changes_nothing(scale: float) -> None:
    model, other = Quadratics(TASKS), Quadratics(TASKS)
    plain, scaled = engine_of(other, "fair-rise"), engine_of(model, "fair-rise")
    for _ in range(3):
        plain.backward(other.losses)
        scaled.backward(model.losses, grad_scaler=GradScaler("cpu", init_scale=scale))
    expected: Any = other.x.grad
    torch.testing.assert_close(model.x.grad, scale * expected)
    torch.testing.assert_close(scaled.aggregator.weights, plain.aggregator.weights)


@pytest.mark.parametrize(
    "perturbation",
    [
        None,
        samo.Momentum(RHO),
        samo.Perturbation(RHO, alpha=1.0),
        samo.Perturbation(0.0, rho_own=RHO),
        samo.Perturbation(RHO, alpha=0.5, rho_own=0.0),
    ],
)
def test_other_perturbations_are_refused(perturbation: Any) -> None:
    with pytest.raises(ValueError, match=r"use samo\.GSAM\(\.\., rho_own=0\)"):
        samo.Engine(Quadratics(TASKS), TASKS, aggregator="fair-rise", perturbation=perturbation)


def test_a_method_of_ones_own() -> None:
    """The engine asks for the capability."""

    class Noted(Scalarizer, SeesSharpness):
        def reset(self) -> None:
            self.weights = torch.tensor([1.0, 2.0, 3.0]).double()

        def see_sharpness(self, rises: Tensor, present: Tensor, /) -> None:
            self.seen = rises, present

        def forward(self, values: Tensor, /) -> Tensor:
            return (self.weights * values).sum()

    model, method = Quadratics(TASKS), Noted()
    method.reset()
    result = engine_of(model, method).backward(lambda tasks: model.losses(["a", "c"]))
    rises, present = method.seen
    assert result.sharpness is not None
    torch.testing.assert_close(rises, torch.stack(list(result.sharpness.values())))
    assert present.tolist() == [0, 2]
    d = model.gradient("a") + 3 * model.gradient("c")
    there = model.x.detach() + RHO * d / d.norm()
    expected = model.gradient("a", there) + 3 * model.gradient("c", there)
    torch.testing.assert_close(model.x.grad, expected)
