"""The engine against theory: closed forms, limits, norms."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import samo
from tests.problems import TASKS, problem
from tests.tools import Heads, Quadratics, close, gradients, same

RHO = 0.3
EXACT = samo.ExactGradient()
# name: how the engine is made, and α
EXACT_PRESETS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "GSAM": (samo.GSAM, {}, 1.0),
    "LSAM": (samo.LSAM, {}, 0.0),
    "SAMO": (samo.SAMO, {"local": EXACT, "alpha": 0.3}, 0.3),
}
PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "GSAM": (samo.GSAM, {}),
    "LSAM": (samo.LSAM, {}),
    "FMTL": (samo.FMTL, {}),
    "SAMO": (samo.SAMO, {}),
}


def unit(vector):
    return vector / vector.norm() if vector.norm() > 0 else torch.zeros_like(vector)


def adapted(vector, point, adaptive):
    """ρ u / ‖u‖, or ρ T² u / ‖T u‖."""
    if not adaptive:
        return RHO * unit(vector)
    size = point.abs()
    norm = (size * vector).norm()
    return RHO * size**2 * vector / norm if norm > 0 else torch.zeros_like(vector)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("preset", EXACT_PRESETS)
def test_quadratics(preset, adaptive):
    """The sharpness-aware gradients are A_i (x + ε_i - c_i) and b_i (y_i + η_i - 1)."""
    make, options, alpha = EXACT_PRESETS[preset]
    model = Quadratics()
    with torch.no_grad():
        model.x[0] = model.y["b"][0] = 0.0  # ASAM does not move what is zero
    x = model.x.detach().clone()
    mean = model.mean_gradient()
    want, sharpness = {"x": torch.zeros_like(x)}, {}
    for task in TASKS:
        y, b = model.y[task].detach(), model.b[task]
        u = alpha * mean + (1 - alpha) * model.gradient(task)
        epsilon, eta = adapted(u, x, adaptive), adapted(b * (y - 1), y, adaptive)
        want["x"] += model.gradient(task, x + epsilon)
        want[f"y.{task}"] = b * (y + eta - 1)
        sharpness[task] = (
            epsilon @ model.gradient(task)
            + epsilon @ model.A[task] @ epsilon / 2
            + b * (y - 1) @ eta
            + b * eta @ eta / 2
        )
    engine = make(model, TASKS, aggregator="ls", rho=RHO, adaptive=adaptive, **options)
    result = engine.backward(model.losses)
    close(gradients(model), want, 1e-12)
    close(result.sharpness, sharpness, 1e-12)


@pytest.mark.parametrize("aggregator", ["ls", "gls", "pcgrad", "config"])
@pytest.mark.parametrize("model", ["batchnorm", "dropout_heads"])
@pytest.mark.parametrize("preset", PRESETS)
def test_zero_radius_is_erm(preset, model, aggregator):
    """With ρ = 0 every preset gives what ERM gives, bit for bit, buffers and random numbers too."""
    make, options = PRESETS[preset]
    seen = []
    for build in (samo.ERM, partial(make, rho=0.0, **options)):
        case = problem(model)
        torch.manual_seed(1)
        engine = build(case.model, TASKS, aggregator=aggregator)
        for _ in range(2):
            result = engine.backward(partial(case.losses, case.model))
        assert result.perturbed_losses is None
        buffers = dict(case.model.named_buffers())
        seen.append(gradients(case.model) | buffers | {"rng": torch.get_rng_state()})
    same(seen[0], seen[1])


def sam(model, loss, rho):
    """SAM (Foret et al. 2021, Algorithm 1)."""
    parameters = list(model.parameters())
    theta = [p.detach().clone() for p in parameters]
    loss().backward()
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    with torch.no_grad():
        for p in parameters:
            p.add_(rho * p.grad / norm)
    model.zero_grad()
    loss().backward()
    with torch.no_grad():
        for p, value in zip(parameters, theta, strict=True):
            p.copy_(value)
    return gradients(model)


@pytest.mark.parametrize("aggregator", ["mean", "mgda", "config"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("make", "options"),
    [(samo.GSAM, {}), (samo.LSAM, {}), (samo.FMTL, {}), (samo.SAMO, {"local": EXACT})],
)
def test_one_task_is_sam(make, options, shared, aggregator):
    """With K = 1 the step is SAM's, whether the parameters are called shared or own."""
    model, x = Heads(tasks=["a"]).double(), torch.randn(7, 4, dtype=torch.float64)
    twin = copy.deepcopy(model)
    want = sam(twin, lambda: twin.losses(["a"], x)["a"], RHO)
    parts = {"shared": model} if shared else {}
    engine = make(model, ["a"], aggregator=aggregator, rho=RHO, **options, **parts)
    engine.backward(lambda tasks: model.losses(tasks, x))
    close(gradients(model), want, 1e-11)


class Forbidden(samo.LocalGradient):
    """An estimator that must not be asked."""

    def estimate(self, probe):
        raise AssertionError("asked")


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
def test_alpha_one_needs_no_estimator(aggregator, decompose):
    """With α = 1 the estimator is never asked, and all is bit for bit as in GSAM."""
    seen = []
    samo_of_one = partial(samo.SAMO, alpha=1.0, local=Forbidden())
    for preset in (samo.GSAM, samo_of_one):
        case = problem("dropout")
        torch.manual_seed(2)
        options: dict[str, Any] = {"rho": RHO, "decompose": decompose}
        preset(case.model, TASKS, aggregator=aggregator, **options).backward(
            partial(case.losses, case.model)
        )
        seen.append(gradients(case.model))
    same(seen[0], seen[1])
    with pytest.raises(AssertionError, match="asked"):
        samo.SAMO(case.model, TASKS, aggregator="ls", local=Forbidden()).backward(
            lambda tasks: case.losses(case.model, tasks)
        )


@pytest.mark.parametrize("at_optimum", [["b"], TASKS])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_no_gradient_no_perturbation(preset, aggregator, adaptive, at_optimum):
    """A task at its optimum is not perturbed along its gradient; nothing becomes NaN."""
    make, options = PRESETS[preset]
    model = Quadratics()
    with torch.no_grad():
        for task in at_optimum:
            model.c[task] = model.x.detach().clone()
            model.y[task].fill_(1.0)
    points = []

    def losses(tasks):
        points.append((tasks, {n: p.detach().clone() for n, p in model.named_parameters()}))
        return model.losses(tasks)

    engine = make(model, TASKS, aggregator=aggregator, rho=RHO, adaptive=adaptive, **options)
    result = engine.backward(losses)
    at = points[0][1]
    for tasks, point in points[1:]:
        for task in TASKS:  # no η for a zero gradient
            moved = not torch.equal(point[f"y.{task}"], at[f"y.{task}"])
            assert moved <= (task not in at_optimum)
        at_rest = preset in ("LSAM", "FMTL") and tasks == ["b"]
        if at_rest or (at_optimum == TASKS and preset != "SAMO"):
            same(point, at)
    grads = gradients(model)
    assert all(g.isfinite().all() for g in grads.values())
    if at_optimum == TASKS:
        assert not any(g.any() for g in grads.values())
        assert not any(result.sharpness.values())


def test_adaptive_at_zero():
    """Where all parameters are zero, the adaptive perturbation is zero."""
    model = Quadratics()
    nn.init.zeros_(model.x)
    seen = []

    def losses(tasks):
        seen.append(model.x.detach().clone())
        return model.losses(tasks)

    samo.LSAM(model, TASKS, aggregator="ls", rho=RHO, adaptive=True).backward(losses)
    assert len(seen) == 4
    assert not torch.stack(seen).any()
    torch.testing.assert_close(gradients(model)["x"], 3 * model.mean_gradient())


def displacements(make, model, losses, **options):
    """θ_call - θ by name, of each perturbed evaluation, from inside the closure."""
    points, kinds = [], []

    def spied(tasks):
        points.append({n: p.detach().clone() for n, p in model.named_parameters()})
        kinds.append((list(tasks), torch.is_grad_enabled()))
        return losses(tasks)

    engine = make(model, list(TASKS), aggregator="ls", **options)
    engine.backward(spied)
    return engine, [
        (tasks, {n: p - points[0][n] for n, p in point.items()})
        for (tasks, graph), point in zip(kinds[1:], points[1:], strict=True)
        if graph
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_norm_layers_only(preset):
    """SAM-ON: only what `where` selects moves, by ρ; the gradients are those of all parameters."""
    make, options = PRESETS[preset]
    case = problem("batchnorm")
    norm = {"trunk.1.weight", "trunk.1.bias"}
    _, moves = displacements(
        make,
        case.model,
        partial(case.losses, case.model),
        rho=RHO,
        where=lambda name, parameter: name in norm,
        **options,
    )
    assert moves
    for _, moved in moves:
        assert {n for n, d in moved.items() if d.any()} == norm
        assert torch.cat([moved[n] for n in norm]).norm().item() == pytest.approx(RHO, rel=1e-12)
    assert all(p.grad is not None for p in case.model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_masks(preset):
    """SSAM: only the entries in the mask move, the whole of ρ is spent on them."""
    make, options = PRESETS[preset]
    model = Quadratics()
    masks = {"x": torch.tensor([True, False, True, True, False]), "y.b": torch.zeros(2).bool()}
    _, moves = displacements(
        make, model, model.losses, rho=RHO, where=lambda n, p: masks.get(n, True), **options
    )
    for tasks, moved in moves:
        assert torch.equal(moved["x"] != 0, masks["x"])
        assert moved["x"].norm().item() == pytest.approx(RHO, rel=1e-12)
        for task in TASKS:
            far = RHO if task in tasks and task != "b" else 0.0
            assert moved[f"y.{task}"].norm().item() == pytest.approx(far, rel=1e-12)


@pytest.mark.parametrize("nothing", [False, torch.zeros(()).bool()])
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize("preset", PRESETS)
def test_where_selects_nothing(preset, aggregator, nothing):
    """Nothing moves: the gradients are ERM's."""
    make, options = PRESETS[preset]
    seen = []

    def where(name, parameter):
        return nothing if nothing is False else nothing.expand(parameter.shape)

    for build in (samo.ERM, partial(make, rho=RHO, where=where, **options)):
        model = Quadratics()
        result: Any = build(model, TASKS, aggregator=aggregator).backward(model.losses)
        seen.append(gradients(model))
    close(seen[0], seen[1], 1e-12)
    assert not any(result.sharpness.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_where_changes_from_step_to_step(preset):
    """`where` is asked at each step anew."""
    make, options = PRESETS[preset]
    if preset == "SAMO":
        options = {"local": samo.PreviousGradient()}  # it remembers what was selected before
    model, x = Heads().double(), torch.randn(7, 4, dtype=torch.float64)
    names = list(dict(model.named_parameters()))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    selected: list[str] = []
    moved: set[str] = set()

    def losses(tasks):
        moved.update(n for n, p in model.named_parameters() if not torch.equal(p, before[n]))
        return model.losses(tasks, x)

    engine = make(
        model, TASKS, aggregator="ls", rho=RHO, where=lambda n, p: n in selected, **options
    )
    for selected in (names, names[:1], names[1:3] + names[4:6], [], names[1:]):
        moved.clear()
        engine.backward(losses)
        assert moved == set(selected)


@settings(max_examples=30)
@given(
    width=st.integers(1, 5),
    n_tasks=st.integers(1, 4),
    rho=st.floats(1e-4, 3.0),
    alpha=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    local=st.sampled_from(
        [EXACT, samo.SPSA(), samo.SPSA(samples=2, normalization="none"), samo.RandomDirection()]
    ),
    adaptive=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_radius(width, n_tasks, rho, alpha, local, adaptive, single, seed):
    """Seen from inside the closure, ‖ε_i‖ = ρ and ‖η_i‖ = ρ; if adaptive, of ε / |θ|."""
    torch.manual_seed(seed)
    dtype = torch.float32 if single else torch.float64
    tasks = [f"t{i}" for i in range(n_tasks)]
    model = Heads(nn.Sequential(nn.Linear(4, width), nn.Tanh()), width, tasks).to(dtype)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_().add_(parameter.sign(), alpha=0.1)
    x = torch.randn(3, 4, dtype=dtype)
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    own = {task: [n for n in theta if n.startswith(f"heads.{task}.")] for task in tasks}
    shared = [n for n in theta if n.startswith("trunk")]
    checked: list[bool] = []

    def far(names):
        parts = []
        for name in names:
            moved = (model.get_parameter(name).detach() - theta[name]).double()
            parts.append((moved / theta[name] if adaptive else moved).flatten())
        return torch.cat(parts).norm().item()

    def losses(asked):
        if torch.is_grad_enabled():
            checked.append(len(checked) > 0)
            if checked[-1]:
                # What float32 can hold of a displacement next to the parameter's own size.
                tolerance = 1e-9 if not single else 1e-4 + 3e-6 * math.sqrt(len(theta)) / rho
                assert far(shared) == pytest.approx(rho, rel=tolerance)
                for task in tasks:
                    want = rho if task in asked else 0.0
                    assert far(own[task]) == pytest.approx(want, rel=tolerance)
        return model.losses(asked, x)

    perturbation = samo.Perturbation(rho, alpha=alpha, local=local, adaptive=adaptive)
    modules = {task: model.heads[task] for task in tasks}
    engine = samo.Engine(
        model, tasks, aggregator="ls", perturbation=perturbation, shared=model.trunk, own=modules
    )
    engine.backward(losses)
    assert checked.count(True) == (1 if alpha == 1 else n_tasks)
    same(dict(model.named_parameters()), theta)
