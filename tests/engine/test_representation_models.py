"""One step at the representation, against a naive one, over models, presets and methods."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import samo
from samo import aggregation
from tests.aggregation.subject import options
from tests.engine.cuts import MODELS, TASKS, Named, model, point

RHO = 0.07
TOLERANCE = 1e-10
PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {"rho": RHO}),
    "heads": (samo.GSAM, {"rho": 0.0, "rho_own": RHO}),
    "msam": (samo.MSAM, {"rho": RHO}),
}


def make(method: str) -> Any:
    """A fresh method for the tasks."""
    return aggregation.create(method, len(TASKS), **options(method, len(TASKS)))


def combiner(method: str) -> Any:
    """The method as the engine uses it."""
    return aggregation.combiner(make(method), len(TASKS))


def across_batches(method: str) -> bool:
    """Whether a method relates whole gradients to those of earlier batches."""
    return combiner(method).whole_rows and combiner(method).sized


COMPARING = [name for name in aggregation.available() if not combiner(name).weighs_first]
METHODS = [name for name in COMPARING if not across_batches(name)]
# What a method does with one matrix depends on random numbers or on earlier steps.
UNSTEADY = {"pcgrad", "gradvac", "graddrop", "rlw", "krum"}


def partition(gradients: dict[str, dict[str, Tensor]]) -> dict[str, list[str]]:
    """The tasks that reach each parameter."""
    names = sorted({name for found in gradients.values() for name in found})
    return {name: [t for t in gradients if name in gradients[t]] for name in names}


def ascended(net: Named, rho: float, rho_own: float, tasks: Sequence[str]) -> Named:
    """The model at the point of G-SAM."""
    there, gradients = copy.deepcopy(net), point(net, tasks).gradients
    reach = partition(gradients)
    radii = {name: rho if len(its) > 1 else rho_own for name, its in reach.items()}
    for group in (None, *tasks):
        found = {
            name: torch.stack([gradients[t][name] for t in its]).sum(0)
            for name, its in reach.items()
            if (len(its) > 1 if group is None else its == [group])
        }
        move(there, found, radii)
    return there


def move(net: Named, direction: Mapping[str, Tensor], radii: Mapping[str, float]) -> None:
    """Moves parameters along a direction, by a distance over all of them together."""
    norm = torch.stack([torch.zeros(()), *(d.norm() for d in direction.values())]).norm()
    with torch.no_grad():
        for name, its in direction.items():
            if norm > 0:
                net.get_parameter(name).add_(its * (radii[name] / norm))


def evaluated_at(net: Named, engine: samo.Engine, preset: str, tasks: Sequence[str]) -> Named:
    """The model at the point where a preset evaluates the losses."""
    if preset == "erm":
        return net
    if preset != "msam":
        rho = PRESETS[preset][1]["rho"]
        return ascended(net, rho, RHO, tasks)
    engine.backward(net.losses)  # MSAM displaces from the second step on
    there = copy.deepcopy(net)
    found = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    move(there, found, dict.fromkeys(found, -RHO))
    net.zero_grad()
    there.zero_grad()
    return there


def check(
    net: Named, method: str, preset: str, tasks: Sequence[str] = TASKS, tolerance: float = TOLERANCE
) -> samo.StepResult:
    """Holds one step of an engine against the naive one."""
    preset_of, arguments = PRESETS[preset]
    engine = preset_of(net, TASKS, aggregator=make(method), level="representation", **arguments)
    naive = point(evaluated_at(net, engine, preset, tasks), tasks)
    result: samo.StepResult = engine.backward(
        lambda asked: net.losses([task for task in asked if task in tasks])
    )
    assert result.level == "representation"
    close: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
    gramian = naive.rows @ naive.rows.T
    torch.testing.assert_close(result.gramian, gramian, **close)
    steady = method not in UNSTEADY and not aggregation.describe(method).stateful
    if result.weights is None:
        if not steady:
            return result
        shared = naive.pull_back(make(method)(naive.rows))
    else:
        if steady and len(tasks) == len(TASKS):
            weights = combiner(method).weights(gramian, range(len(TASKS)))
            torch.testing.assert_close(result.weights, weights, rtol=1e-6, atol=1e-8)
        pairs = list(zip(tasks, result.weights, strict=True))
        names = {name for found in naive.gradients.values() for name in found}
        shared = {
            n: sum(w * naive.gradients[t][n] for t, w in pairs if n in naive.gradients[t])
            for n in names
        }
    for name, reach in partition(naive.gradients).items():
        want = shared[name] if len(reach) > 1 else naive.gradients[reach[0]][name]
        torch.testing.assert_close(net.get_parameter(name).grad, want, **close)
    return result


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "mtan" else ()) for n in MODELS]
)
def test_every_model(name: str, preset: str) -> None:
    check(model(name), "upgrad", preset)


@pytest.mark.parametrize("name", ["plain", "attention", "direct"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, name: str) -> None:
    check(model(name), method, "erm")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_at_a_perturbed_point(method: str) -> None:
    check(model("branch"), method, "gsam")
    check(model("branch"), method, "heads")


@pytest.mark.parametrize("method", sorted(set(COMPARING) - set(METHODS)))
def test_methods_of_several_batches(method: str) -> None:
    """The coordinates of a representation are those of one batch."""
    with pytest.raises(ValueError, match="coordinates are those of the batch"):
        check(model("plain"), method, "erm")


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_triple(method: str, preset: str) -> None:
    for name in MODELS:
        check(model(name), method, preset)


@pytest.mark.parametrize("absent", TASKS)
@pytest.mark.parametrize("name", ["plain", "branch", "attention", "direct", "masked"])
def test_absent_tasks(name: str, absent: str) -> None:
    """The representation is that of the tasks in the batch."""
    net = model(name)
    engine = samo.ERM(net, TASKS, aggregator="mgda", level="representation")
    engine.backward(net.losses)  # the parameters of all tasks are known
    here = [task for task in TASKS if task != absent]
    net.zero_grad()
    result = engine.backward(lambda tasks: net.losses([task for task in tasks if task in here]))
    assert result.weights is not None
    gradients = point(net, here).gradients
    everyone = partition(point(net).gradients)
    for name, reach in partition(gradients).items():
        shared = len(everyone[name]) > 1
        weights = result.weights if shared else torch.ones(len(here))
        want = sum(w * gradients[t][name] for t, w in zip(here, weights, strict=True) if t in reach)
        torch.testing.assert_close(net.get_parameter(name).grad, want, rtol=1e-10, atol=1e-10)
