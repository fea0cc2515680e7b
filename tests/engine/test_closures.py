"""Closures: partial ones are refused, impure ones reported, differentiating ones work."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import samo
from tests.problems import TASKS, Multi, RunningScale, X, Y, losses, problem
from tests.snapshots import Expected
from tests.tools import close, gradients, same

PRESETS: dict[str, Callable[..., samo.Engine]] = {
    "ERM": lambda model, method, **o: samo.ERM(model, TASKS, aggregator=method, **o),
    "GSAM": lambda model, method, **o: samo.GSAM(model, TASKS, aggregator=method, rho=0.1, **o),
    "LSAM": lambda model, method, **o: samo.LSAM(model, TASKS, aggregator=method, rho=0.1, **o),
    "SAMO": lambda model, method, **o: samo.SAMO(model, TASKS, aggregator=method, rho=0.1, **o),
    "MSAM": lambda model, method, **o: samo.MSAM(model, TASKS, aggregator=method, rho=0.1, **o),
    "ERM, representation": lambda model, method, **o: samo.ERM(
        model, TASKS, aggregator=method, level="representation", **o
    ),
    "GSAM, representation": lambda model, method, **o: samo.GSAM(
        model, TASKS, aggregator=method, rho=0.1, level="representation", **o
    ),
}


# Partial closures


def heads(model: Any, h: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    return {t: (model.heads[t](h).squeeze(-1) - Y).square().mean() for t in tasks}


def features_outside(model: Any) -> Callable[[list[str]], dict[str, Tensor]]:
    h = model.trunk(X)
    return lambda tasks: heads(model, h, tasks)


def losses_outside(model: Any) -> Callable[[list[str]], dict[str, Tensor]]:
    found = heads(model, model.trunk(X), TASKS)
    return lambda tasks: found


def one_loss_outside(model: Any) -> Callable[[list[str]], dict[str, Tensor]]:
    found = heads(model, model.trunk(X), ["a"])
    return lambda tasks: {**heads(model, model.trunk(X), tasks), **found}


def backward_inside(model: Any) -> Callable[[list[str]], dict[str, Tensor]]:
    def closure(tasks):
        found = heads(model, model.trunk(X), tasks)
        torch.stack(list(found.values())).sum().backward()
        return found

    return closure


PARTIAL = [features_outside, losses_outside, one_loss_outside, backward_inside]


@pytest.mark.parametrize("make", PARTIAL)
@pytest.mark.parametrize("method", ["ls", "mgda"])
@pytest.mark.parametrize("preset", PRESETS)
def test_partial_closures_are_refused(preset: str, method: str, make: Any) -> None:
    model = problem("plain").model
    with pytest.raises(samo.ClosureError, match="has to evaluate the model anew"):
        PRESETS[preset](model, method).backward(make(model))


@pytest.mark.parametrize("make", PARTIAL)
@pytest.mark.parametrize("preset", ["GSAM", "LSAM", "SAMO"])
def test_partial_closures_are_refused_at_later_steps(preset: str, make: Any) -> None:
    model = problem("plain").model
    engine = PRESETS[preset](model, "mgda")
    engine.backward(partial(losses, model))
    with pytest.raises(samo.ClosureError, match="has to evaluate the model anew"):
        engine.backward(make(model))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_fixed_outside_may_be_used(preset: str) -> None:
    """Detached tensors, and inputs that require gradients."""
    model: Any = problem("plain").model
    fixed = model.trunk(X).detach()
    x = X.clone().requires_grad_()

    def closure(tasks):
        return heads(model, model.trunk(x) * fixed, tasks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PRESETS[preset](model, "mgda").backward(closure)


class Inverse(torch.autograd.Function):
    """An operation whose backward formula writes to what it has saved."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return y.mul_(gradient)


@pytest.mark.parametrize("preset", ["ERM", "LSAM"])
def test_backward_formulas_that_write_are_explained(preset: str) -> None:
    model: Any = problem("plain").model

    def closure(tasks):
        return heads(model, Inverse.apply(model.trunk(X)), tasks)

    with pytest.raises(RuntimeError) as caught:
        PRESETS[preset](model, "mgda").backward(closure)
    assert "level='representation'" in "".join(caught.value.__notes__)


# Derivatives in the losses


def curvature(model: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
    x = X.clone().requires_grad_()
    h = model.trunk(x)
    (slope,) = torch.autograd.grad(h.sum(), x, create_graph=True)
    return {t: loss + slope.square().mean() for t, loss in heads(model, h, tasks).items()}


def penalty(model: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
    found = heads(model, model.trunk(X), tasks)
    weight = model.trunk[0].weight
    for task, loss in found.items():
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        found[task] = loss + 0.1 * slope.square().sum()
    return found


def adversary(model: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
    x = X.clone().requires_grad_()
    loss = torch.stack([*heads(model, model.trunk(x), tasks).values()]).sum()
    (slope,) = torch.autograd.grad(loss, x)
    return heads(model, model.trunk(X + 0.1 * slope.sign()), tasks)


@pytest.mark.filterwarnings("ignore:The losses depend on tensors")
@pytest.mark.parametrize("derive", [curvature, penalty, adversary])
def test_closures_may_differentiate(derive: Any) -> None:
    """With SPSA, whose evaluations need no graphs otherwise; the same as with graphs throughout."""
    found = []
    for graphs in (False, True):
        model = problem("plain").model

        def closure(tasks, model=model, graphs=graphs):
            if graphs:
                with torch.enable_grad():
                    return derive(model, tasks)
            return derive(model, tasks)

        engine = PRESETS["SAMO"](model, "ls")
        for _ in range(2):
            engine.backward(closure)
        found.append(gradients(model))
    same(found[0], found[1])


def test_errors_of_closures_stay_what_they_are() -> None:
    model = problem("plain").model
    calls = itertools.count()

    def closure(tasks):
        if next(calls) == 2:
            raise RuntimeError("of the closure")
        return losses(model, tasks)

    with pytest.raises(RuntimeError, match="of the closure"):
        PRESETS["SAMO"](model, "ls").backward(closure)
    assert next(calls) == 3


class Centred(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w - w.mean(1, keepdim=True)


@pytest.mark.parametrize("method", ["ls", "mgda"])
@pytest.mark.parametrize("preset", PRESETS)
def test_parametrizations_may_be_cached(preset: str, method: str) -> None:
    """Around one step or several; the cache outside is left alone."""
    found = []
    for cached in (False, True):
        torch.manual_seed(0)
        model = Multi(nn.Sequential(nn.Linear(5, 4), nn.Tanh())).double()
        parametrize.register_parametrization(model.trunk[0], "weight", Centred())  # type: ignore[index]
        engine = PRESETS[preset](model, method)
        if cached:
            with parametrize.cached():
                before = model.trunk[0].weight  # type: ignore[index]
                for _ in range(2):
                    engine.backward(partial(losses, model))
                assert model.trunk[0].weight is before  # type: ignore[index]
        else:
            for _ in range(2):
                engine.backward(partial(losses, model))
        found.append(gradients(model))
    same(found[0], found[1])


# Help for closures


@pytest.mark.parametrize("preset", PRESETS)
def test_the_natural_pass_is_known(preset: str) -> None:
    model = problem("plain").model
    engine = PRESETS[preset](model, "ls")
    assert not engine.in_natural_pass
    for _ in range(2):
        seen: list[bool] = []

        def closure(tasks, seen=seen):
            seen.append(engine.in_natural_pass)
            return losses(model, tasks)

        engine.backward(closure)
        assert seen == [True] + [False] * (len(seen) - 1)
        assert not engine.in_natural_pass


def test_after_an_error_no_pass_is_natural() -> None:
    engine = samo.GSAM(problem("plain").model, TASKS, aggregator="ls")
    with pytest.raises(ZeroDivisionError):
        engine.backward(lambda _: {"a": 1 / 0})  # type: ignore[dict-item]
    assert not engine.in_natural_pass


@pytest.mark.parametrize("name", ["plain", "batchnorm", "dropout", "dropout_heads", "running"])
@pytest.mark.parametrize("preset", ["ERM", "SAMO", "MSAM"])
def test_pure_closures_are_found_pure_and_nothing_changes(preset: str, name: str) -> None:
    model = problem(name).model
    expected = Expected(model)
    report = PRESETS[preset](model, "ls").check(partial(losses, model))
    assert report.pure
    expected.check(model)
    assert "All losses are the same" in str(report)


def test_impure_closures_are_found() -> None:
    model = problem("plain").model
    outside = RunningScale(6).double()
    batches = itertools.count()
    impure: dict[str, Callable[[Tensor], Tensor]] = {
        "an iterator": lambda loss: loss * next(batches),
        "a module outside": lambda loss: outside(loss.expand(6, 6)).mean(),
    }
    for change in impure.values():
        engine = samo.GSAM(model, TASKS, aggregator="ls")

        def closure(tasks, change=change):
            return {task: change(loss) for task, loss in losses(model, tasks).items()}

        report = engine.check(closure)
        assert not report.pure
        assert all(repr(task) in str(report) for task in report.losses)
    guarded = samo.GSAM(model, TASKS, aggregator="ls", guards=[outside])

    def all_at_once(tasks):
        scale = outside(torch.ones(6, 6, dtype=torch.float64)).mean()
        return {task: loss * scale for task, loss in losses(model, tasks).items()}

    report = guarded.check(all_at_once)
    assert report.pure
    assert list(report.moved) == ["guards[0].scale", "guards[0].calls"]


def test_what_moves_is_named() -> None:
    model: Any = problem("plain").model
    model.trunk.seen = 0

    def closure(tasks):
        model.trunk.seen += 1
        with torch.no_grad():
            model.trunk[0].bias.mul_(0.5)
        return {t: loss * torch.rand(()) for t, loss in losses(model, tasks).items()}

    report = samo.LSAM(model, TASKS, aggregator="ls").check(closure)
    assert list(report.moved) == ["trunk.0.bias", "trunk.seen", "torch's generator"]
    assert "trunk.0.bias, trunk.seen" in str(report)
    assert model.trunk.seen == 0


# Low precision


@pytest.mark.parametrize(
    ("dtype", "rho", "said"),
    [
        (torch.bfloat16, 1e-4, True),
        (torch.bfloat16, 1.0, False),
        (torch.float16, 1e-5, True),
        (torch.float16, 1.0, False),
        (torch.float32, 1e-7, False),
    ],
)
@pytest.mark.parametrize("preset", [samo.GSAM, samo.LSAM])
def test_a_perturbation_that_rounding_takes_away_is_said(
    preset: Any, dtype: torch.dtype, rho: float, said: bool
) -> None:
    """Once for a radius."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"trunk": nn.Linear(32, 32), "a": nn.Linear(32, 1), "b": nn.Linear(32, 1)}
    )
    model.to(dtype)
    x = torch.randn(8, 32).to(dtype)
    engine = preset(model, ["a", "b"], aggregator="ls", rho=rho)

    def closure(tasks):
        h = model["trunk"](x).tanh()
        return {t: model[t](h).float().square().mean() for t in tasks}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            engine.backward(closure)
    found = [str(w.message) for w in caught if "lost to rounding" in str(w.message)]
    assert len(found) == said
    if said:
        assert f"rho={rho}" in found[0]


def test_representations_are_unaffected_by_the_check_of_the_graph() -> None:
    """The same gradients at both levels, for a sum with known weights."""
    found = []
    for level in ("parameter", "representation"):
        model = problem("plain").model
        engine = samo.ERM(model, TASKS, aggregator="ls", level=level)
        engine.backward(partial(losses, model))
        found.append(gradients(model))
    close(found[0], found[1])
