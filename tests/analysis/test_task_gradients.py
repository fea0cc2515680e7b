"""Cosines, sharpness and estimators agree with the naive step and closed forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samo import (
    SPSA,
    ExactGradient,
    LastLayers,
    Momentum,
    Perturbation,
    PreviousGradient,
    RandomDirection,
)
from samo.analysis import AnalysisError, estimator_quality, gradient_cosines, sharpness
from tests import reference
from tests.problems import TASKS, X, losses, problem
from tests.tools import Heads, Quadratics

LOCAL = Perturbation(0.1, alpha=0.0, local=ExactGradient())
ONE = [torch.zeros(1)]


def cosines_of(rows: Tensor) -> list[list[float]]:
    unit = F.normalize(rows, dim=1)
    return (unit @ unit.T).tolist()


def near(one: Any, other: Any) -> None:
    torch.testing.assert_close(
        torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", ["plain", "batchnorm", "tied", "branches", "one_output"])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
def test_cosines_agree_with_the_naive_step(name: str, alpha: float | None) -> None:
    made = problem(name)
    made.model.eval()
    perturbation = None
    if alpha is not None:
        perturbation = Perturbation(0.2, alpha=alpha, local=ExactGradient())
    _, rows = reference.step(
        made,
        lambda matrix, _: matrix.mean(0),
        torch.ones_like,
        rho=0.0 if perturbation is None else 0.2,
        alpha=alpha or 0.0,
    )
    found = gradient_cosines(
        made.model,
        lambda _, tasks: losses(made.model, tasks),
        [X],
        TASKS,
        perturbation=perturbation,
    )
    near(found.matrix, cosines_of(rows))
    near(found.batch_matrix, found.matrix)
    near(found.norms, rows.norm(dim=1).tolist())
    gramian = rows @ rows.T
    negative = sum(bool(gramian[i, j] < 0) for i in range(3) for j in range(i))
    assert found.conflicts == found.batch_conflicts == pytest.approx(negative / 3)
    assert found.balance == pytest.approx((rows.norm(dim=1).min() / rows.norm(dim=1).max()).item())


class Line(nn.Module):
    """Losses whose gradients are given by the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def losses(self, batch: dict[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        return {t: (batch[t] @ self.x).mean() for t in tasks if t in batch}


def test_batches_are_weighted_by_their_examples_of_each_task() -> None:
    """Task b is in the first batch with one example, in the second with three, c in neither's."""
    model = Line()
    e = torch.eye(2, dtype=torch.float64)
    batches = [
        {"a": e[[0, 0]], "b": -e[[0]]},
        {"a": e[[1]], "b": e[[1, 1, 1]]},
        {"c": e[[0]]},
    ]
    found = gradient_cosines(model, model.losses, batches, ["a", "b", "c"])
    rows = torch.tensor([[2 / 3, 1 / 3], [-1 / 4, 3 / 4], [1.0, 0.0]], dtype=torch.float64)
    near(found.matrix, cosines_of(rows))
    near(found.norms, rows.norm(dim=1).tolist())
    # Within the batches that have both: −1 and 1; c meets nobody.
    near(found.batch_matrix, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert found.batch_conflicts == 0.5
    assert found.conflicts == pytest.approx(1 / 3)


def test_one_task_has_no_conflicts() -> None:
    model = Line()
    data = (model, model.losses, [{"a": torch.eye(2).double()}], ["a"])
    found = gradient_cosines(*data, shared=model)
    assert (found.conflicts, found.batch_conflicts) == (None, None)
    near(found.matrix, [[1.0]])
    with pytest.raises(AnalysisError, match="share no parameter"):
        gradient_cosines(*data)


def test_a_zero_gradient_has_cosine_zero() -> None:
    model = Line()
    batch = {"a": torch.eye(2).double(), "b": torch.zeros(3, 2).double()}
    found = gradient_cosines(model, model.losses, [batch], ["a", "b"])
    near(found.matrix, [[1.0, 0.0], [0.0, 0.0]])
    assert found.balance == 0.0


@pytest.mark.parametrize("own", [True, False])
def test_sharpness_of_quadratics(own: bool) -> None:
    """½ (d + ρ g/‖g‖)ᵀ A (d + ρ g/‖g‖) − ½ dᵀ A d, and the same for task-specific parameters."""
    model = Quadratics(own=own)
    found = sharpness(model, lambda _, tasks: model.losses(tasks), ONE, TASKS, LOCAL)
    for i, task in enumerate(TASKS):
        gradient = model.gradient(task)
        step = 0.1 * gradient / gradient.norm()
        rise = gradient @ step + 0.5 * step @ model.A[task] @ step
        if own:
            away = (model.y[task].detach() - 1).norm()
            rise = rise + model.b[task] / 2 * ((away + 0.1) ** 2 - away**2)
        assert found.sharpness[i] == pytest.approx(rise.item())
        assert found.natural[i] == pytest.approx(model.losses([task])[task].item())
    assert (found.rho, found.tasks) == (0.1, tuple(TASKS))


def test_sharpness_along_the_mean_gradient_is_less() -> None:
    model = Quadratics(own=False)
    mean = Perturbation(0.1, alpha=1.0)
    along = sharpness(model, lambda _, tasks: model.losses(tasks), ONE, TASKS, mean)
    direction = model.mean_gradient()
    step = 0.1 * direction / direction.norm()
    for i, task in enumerate(TASKS):
        rise = model.gradient(task) @ step + 0.5 * step @ model.A[task] @ step
        assert along.sharpness[i] == pytest.approx(rise.item())


def test_sharpness_is_a_mean_over_examples() -> None:
    """l = xᵀθ increases by ρ ‖mean x‖ in each batch."""
    model = Line()
    batches = [{"a": torch.tensor([[3.0, 4.0]] * 3)}, {"a": torch.tensor([[0.0, 1.0]])}]
    batches = [{t: x.double() for t, x in batch.items()} for batch in batches]
    found = sharpness(model, model.losses, batches, ["a"], LOCAL)
    assert found.sharpness[0] == pytest.approx(0.1 * (3 * 5 + 1) / 4)


def test_no_sharpness_without_a_radius() -> None:
    model = Line()
    for wrong in (None, Perturbation(0.0)):
        with pytest.raises(AnalysisError, match="rho > 0"):
            sharpness(model, model.losses, [{"a": torch.eye(2)}], ["a"], wrong)  # type: ignore[arg-type]


def test_past_gradients_are_those_of_an_engine() -> None:
    model, ahead = Quadratics(own=False), Momentum(0.1)
    with pytest.raises(AnalysisError, match="found Momentum"):
        gradient_cosines(
            model, lambda _, tasks: model.losses(tasks), ONE, TASKS, perturbation=ahead
        )


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a, b, dim=0).item()


def test_estimators_of_quadratics() -> None:
    model = Quadratics(own=False, size=8)
    found = estimator_quality(
        model,
        lambda _, tasks: model.losses(tasks),
        ONE * 3,
        TASKS,
        {
            "exact": ExactGradient(),
            "many": SPSA(samples=300, normalization="none"),
            "previous": PreviousGradient(),
        },
        alpha=0.25,
        rho=0.3,
    )
    mean = model.mean_gradient()
    exact = [model.gradient(task) for task in TASKS]
    assert found.parameters == 8
    near(found.mean_gradient.mean, [cosine(mean, g) for g in exact])
    near(found.direction["exact"].mean, [1.0] * 3)
    near(found.epsilon["exact"].mean, [cosine(0.25 * mean + 0.75 * g, g) for g in exact])
    assert min(found.direction["many"].mean) > 0.95
    # At first the mean gradient, then the gradient at the point perturbed along the exact one.
    before = []
    for task, g in zip(TASKS, exact, strict=True):
        there = model.gradient(task, model.x.detach() + 0.3 * g / g.norm())
        before.append((cosine(mean, g) + 2 * cosine(there, g)) / 3)
    near(found.direction["previous"].mean, before)


def test_last_layers_are_exact_with_the_mean_gradient_before_them() -> None:
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()).double()
    model = Heads(trunk).double()
    x = torch.linspace(-1, 1, 12).double().view(3, 4)
    found = estimator_quality(
        model, lambda x, tasks: model.losses(tasks, x), [x], TASKS, {"last": LastLayers()}
    )
    exact = []
    for loss in model.losses(TASKS, x).values():
        parts = torch.autograd.grad(loss, list(trunk.parameters()), retain_graph=True)
        exact.append(torch.cat([part.flatten() for part in parts]))
    mean, first = torch.stack(exact).mean(0), 4 * 6 + 6  # of the 72 parameters, the second has 42
    estimates = [torch.cat([mean[:first], gradient[first:]]) for gradient in exact]
    near(found.direction["last"].mean, list(map(cosine, estimates, exact)))


def test_one_spsa_sample_has_the_expected_cosine() -> None:
    """Its cosine is about √(2/πd) on average; that of a random direction about 0."""
    model = Heads(nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    x = torch.linspace(-1, 1, 12).view(3, 4)
    found = estimator_quality(
        model,
        lambda x, tasks: model.losses(tasks, x),
        [x] * 150,
        TASKS,
        {
            "spsa": SPSA(normalization="none"),
            "random": RandomDirection(normalization="none"),
        },
    )
    d = found.parameters
    assert d == 30
    for mean, std in zip(found.direction["spsa"].mean, found.direction["spsa"].std, strict=True):
        assert 0.75 < mean / math.sqrt(2 / (math.pi * d)) < 1.25
        assert std > 0
    for mean in found.direction["random"].mean:
        assert abs(mean) < 4 / math.sqrt(150 * d)


def test_invalid_estimators_raise_errors() -> None:
    model = Line()
    data = (model, model.losses, [{"a": torch.eye(2).double()}], ["a"])
    for wrong, given, options in [
        ("estimators is empty", {}, {}),
        ("alpha must be in", {"exact": ExactGradient()}, {"alpha": 1.0}),
        ("rho must be > 0", {"exact": ExactGradient()}, {"rho": 0.0}),
    ]:
        with pytest.raises(AnalysisError, match=wrong):
            estimator_quality(*data, given, **options)  # type: ignore[arg-type]
