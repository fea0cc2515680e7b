"""Task gradients compared at the representation, against a naive computation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import samo
from samo import aggregation
from tests.problems import MODELS, TASKS, losses, problem
from tests.reference import Problem

RHO = 0.07
# All methods whose weights follow from the Gramian, and none that draws random numbers.
METHODS = [
    name
    for name in aggregation.available()
    if aggregation.describe(name).needs == "gramian"
    and not aggregation.describe(name).stateful
    and name not in {"pcgrad", "gradvac", "krum", "random"}
]


@contextmanager
def representation(model: nn.Module) -> Any:
    """Detaches what the tasks share: the output of the trunk."""
    found: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1]

    trunk: Any = getattr(model, "trunk", None) or model.net
    handle = trunk.register_forward_hook(cut)
    try:
        yield found
    finally:
        handle.remove()


def cotangents(case: Problem) -> list[list[Tensor]]:
    """The gradients of each loss with respect to the representation."""
    model = copy.deepcopy(case.model)
    extra = [p for n, p in model.named_parameters() if n.startswith("branch.")]
    with torch.random.fork_rng(), representation(model) as z:
        values = case.losses(model, case.tasks)
    rows = []
    for task in case.tasks:
        found = torch.autograd.grad(
            values[task], [*z, *extra], retain_graph=True, materialize_grads=True
        )
        rows.append(list(found))
    return rows


def gradients(case: Problem, weights: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """The gradients of a weighted sum of the losses, by parameter."""
    model = copy.deepcopy(case.model)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.random.fork_rng():
        values = case.losses(model, case.tasks)
    total = sum(weight * values[task] for task, weight in weights.items())
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


def displaced(case: Problem, radii: tuple[float, float]) -> Problem:
    """The problem at the point of G-SAM, with the radii of shared and own parameters."""
    mean = gradients(case, dict.fromkeys(case.tasks, 1 / len(case.tasks)))
    rho, rho_own = radii
    parts = [(rho, case.shared), *((rho_own, names) for names in case.own.values())]
    return moved(case, mean, [part for part in parts if part[1]])


def moved(
    case: Problem, along: Mapping[str, Tensor], parts: Sequence[tuple[float, Sequence[str]]]
) -> Problem:
    """The problem with parts of the parameters moved by a distance each."""
    model = copy.deepcopy(case.model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for distance, names in parts:
            norm = torch.stack([along[n].square().sum() for n in names]).sum().sqrt()
            for name in names:
                parameters[name].add_(along[name], alpha=distance / norm.item())
    return Problem(model, case.tasks, case.losses, case.shared, case.own)


PRESETS: dict[str, Any] = {
    "erm": samo.ERM,
    "gsam": partial(samo.GSAM, rho=RHO),
    "heads": partial(samo.SAMO, rho=0.0, rho_own=RHO),
    "msam": partial(samo.MSAM, rho=RHO),
}
RADII = {"gsam": (RHO, RHO), "heads": (0.0, RHO)}


def check(case: Problem, method: str, preset: str, tolerance: float = 1e-10) -> None:
    """Holds a step against the naive computation: the second one along past gradients."""
    engine = PRESETS[preset](case.model, case.tasks, aggregator=method, level="representation")
    parameters = dict(case.model.named_parameters())
    there = displaced(case, RADII.get(preset, (0.0, 0.0)))
    if preset == "msam":
        engine.backward(lambda tasks: case.losses(case.model, tasks))
        before = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
        case.model.zero_grad()
        there = moved(case, before, [(-RHO, list(before))])
    flat = torch.stack([torch.cat([c.flatten() for c in row]) for row in cotangents(there)])
    gramian = flat @ flat.T
    combiner = aggregation.combiner(aggregation.create(method, len(case.tasks)), len(case.tasks))
    weights = combiner.weights(gramian, range(len(case.tasks)))  # type: ignore[attr-defined]
    shared = gradients(there, dict(zip(case.tasks, weights, strict=True)))
    own = {task: gradients(there, {task: 1.0}) for task in case.tasks}
    result = engine.backward(lambda tasks: case.losses(case.model, tasks))
    assert result.gramian is not None
    assert result.weights is not None
    torch.testing.assert_close(result.gramian, gramian, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(result.weights, weights, rtol=1e-6, atol=1e-8)
    for name in case.shared:
        torch.testing.assert_close(parameters[name].grad, shared[name], rtol=1e-7, atol=1e-9)
    for task, names in case.own.items():
        for name in names:
            its = own[task][name]
            torch.testing.assert_close(parameters[name].grad, its, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model(model: str, preset: str) -> None:
    check(problem(model), "fairgrad", preset)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_gramian(method: str) -> None:
    check(problem("plain"), method, "erm")


@pytest.mark.parametrize("preset", ["heads", "msam"])
@pytest.mark.parametrize("method", ["mgda", "upgrad", "nash-mtl"])
def test_methods_at_other_points(method: str, preset: str) -> None:
    check(problem("branches"), method, preset)


def trunk_of(model: nn.Module) -> nn.Module:
    trunk = model.trunk
    assert isinstance(trunk, nn.Module)
    return trunk


def test_recomputed_activations() -> None:
    """With checkpointing, the recomputation sees the same parameters and dropout masks."""

    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return found

    case, plain = problem("dropout"), problem("dropout")
    case.model.trunk = Checkpointed(trunk_of(case.model))
    for one in (case, plain):
        torch.manual_seed(2)
        engine = samo.GSAM(one.model, TASKS, aggregator="mgda", rho=RHO, level="representation")
        engine.backward(partial(losses, one.model))
    for mine, its in zip(case.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-12, atol=1e-12)


def test_no_shared_node_compares_the_parameters() -> None:
    """Where each task has inputs of its own, the representation is the shared parameters."""
    torch.manual_seed(0)
    inputs = {task: torch.randn(4, 3, dtype=torch.float64) for task in TASKS}
    model = nn.ModuleDict({"trunk": nn.Linear(3, 2), **{t: nn.Linear(2, 1) for t in TASKS}})
    model.double()

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        return {t: model[t](model["trunk"](inputs[t]).tanh()).square().mean() for t in tasks}

    found = []
    for level in ("parameter", "representation"):
        model.zero_grad()
        engine = samo.ERM(model, TASKS, aggregator="upgrad", level=level)
        result = engine.backward(closure)
        found.append([result.gramian, *(p.grad for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("level", "preset", "passes"),
    [
        ("representation", "erm", (1, 1)),
        ("representation", "gsam", (2, 2)),
        ("representation", "msam", (1, 1)),
        ("representation", "heads", (2, 1)),
        ("parameter", "msam", (1, 3)),
        ("parameter", "heads", (2, 3)),
    ],
)
def test_passes(level: str, preset: str, passes: tuple[int, int]) -> None:
    """The forward and backward passes of the trunk."""
    case = problem("plain")
    forwards = backwards = 0

    def forward(_module: object, _inputs: object, output: Tensor) -> None:
        nonlocal forwards
        forwards += 1
        output.register_hook(backward)

    def backward(_gradient: Tensor) -> None:
        nonlocal backwards
        backwards += 1

    trunk_of(case.model).get_submodule("0").register_forward_hook(forward)
    engine = PRESETS[preset](case.model, TASKS, aggregator="mgda", level=level)
    for _ in range(2):
        forwards = backwards = 0
        engine.backward(lambda tasks: losses(case.model, tasks))
        assert (forwards, backwards) == passes


@pytest.mark.parametrize("absent", [["a"], ["a", "b"]])
def test_absent_tasks(absent: list[str]) -> None:
    """A task that is absent has no part in the step; a single task is compared with itself."""
    case = problem("plain")
    here = [task for task in TASKS if task not in absent]
    engine = samo.ERM(case.model, TASKS, aggregator="fairgrad", level="representation")
    engine.backward(lambda tasks: losses(case.model, tasks))
    case.model.zero_grad()
    result = engine.backward(
        lambda tasks: losses(case.model, [task for task in tasks if task in here])
    )
    assert result.weights is not None
    want = gradients(case, dict(zip(here, result.weights, strict=True)))
    for name in case.shared:
        torch.testing.assert_close(case.model.get_parameter(name).grad, want[name])
    for task in absent:
        assert all(case.model.get_parameter(name).grad is None for name in case.own[task])


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("points of their own", {"perturbation": samo.Perturbation(0.1)}),
        (
            "those of two passes",
            {"perturbation": samo.Perturbation(0.1, alpha=1.0), "decompose": True},
        ),
        ("must be one of", {"level": "features"}),
    ],
)
def test_what_cannot_be_compared(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        samo.Engine(
            problem("plain").model,
            TASKS,
            aggregator="mgda",
            **{"level": "representation", **options},
        )


def test_micro_batches_are_refused() -> None:
    case = problem("plain")
    engine = samo.ERM(case.model, TASKS, aggregator="mgda", level="representation")
    with pytest.raises(ValueError, match="one function"):
        engine.backward([lambda tasks: losses(case.model, tasks)] * 2)


def test_a_gradient_that_is_not_finite() -> None:
    case = problem("plain")
    engine = samo.ERM(case.model, TASKS, aggregator="mgda", level="representation")

    def closure(tasks: Sequence[str]) -> dict[str, Tensor]:
        return {
            t: v * (torch.inf if t == "b" else 1.0) for t, v in losses(case.model, tasks).items()
        }

    with pytest.raises(samo.NonFiniteError, match="'b'"):
        engine.backward(closure)
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_grad_scaler() -> None:
    """Scaled gradients are the factor times the others."""
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**7)):
        case = problem("plain")
        engine = samo.GSAM(case.model, TASKS, aggregator="mgda", rho=RHO, level="representation")
        engine.backward(partial(losses, case.model), grad_scaler=scaler)
        found.append([parameter.grad for parameter in case.model.parameters()])
    for one, two in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(one * 2.0**7, two, rtol=1e-9, atol=1e-9)
