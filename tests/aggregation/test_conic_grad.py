"""ConicGrad, held against a general convex solver on the gradients themselves."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from samo.aggregation import ConicGrad, _conic_grad
from tests.aggregation.subject import gradients


def best(rows: Tensor, c: float) -> np.ndarray:
    """The unit direction of the cone with the largest smallest product, by an SOCP."""
    matrix = rows.numpy()
    axis = matrix.mean(0) / np.linalg.norm(matrix.mean(0))
    d, worst, length = cp.Variable(matrix.shape[1]), cp.Variable(), cp.Variable()
    constraints = [matrix @ d >= worst, cp.SOC(length, d), length <= 1, axis @ d >= c * length]
    cp.Problem(cp.Maximize(worst), constraints).solve(cp.CLARABEL)
    return np.asarray(d.value)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["random", "conflicting", "one-sided"])
@pytest.mark.parametrize("k", [2, 3, 11])
def test_solves_the_problem(k: int, kind: str, c: float) -> None:
    rows = gradients("random", k) if kind != "conflicting" else gradients("conflicting", k)
    if kind == "one-sided":
        rows = rows * torch.linspace(0.1, 5, k)[:, None] + torch.ones(rows.shape[1]).double() / 5
    direction = ConicGrad(c)(rows)
    mean = rows.mean(0)
    torch.testing.assert_close(direction.norm(), mean.norm(), rtol=1e-9, atol=0)
    assert direction @ mean >= (c - 1e-9) * mean.norm() ** 2
    expected = torch.from_numpy(best(rows, c))
    value = (rows @ expected).min()
    if value < 1e-6:  # nothing in the cone helps all tasks
        torch.testing.assert_close(direction, mean)
        return
    assert (rows @ direction).min() / direction.norm() >= value - 1e-6
    assert value < 1e-3 or torch.cosine_similarity(direction, expected, dim=0) > 1 - 1e-6


def test_limits() -> None:
    """c = 1 is the mean; opposite gradients have no direction; one task has its gradient."""
    rows = gradients("random", 4)
    torch.testing.assert_close(ConicGrad(1.0)(rows), rows.mean(0), rtol=1e-9, atol=1e-12)
    assert not ConicGrad()(gradients("opposite", 2)).any()
    torch.testing.assert_close(ConicGrad()(rows[:1]), rows[0], rtol=1e-9, atol=0)


def test_where_nothing_helps_all_it_is_the_mean() -> None:
    rows = torch.tensor([[3.0, 0.0], [-1.0, 1e-9], [-1.0, -1e-9]], dtype=torch.float64)
    torch.testing.assert_close(ConicGrad(0.5)(rows), rows.mean(0))


def test_says_that_it_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_conic_grad, "_STEPS", 2)
    with pytest.warns(RuntimeWarning, match="ConicGrad did not converge in 2 steps"):
        ConicGrad()(gradients("conflicting", 11))


@pytest.mark.parametrize("c", [-0.1, 1.1])
def test_range(c: float) -> None:
    with pytest.raises(ValueError, match=r"c must be in \[0, 1\]; found"):
        ConicGrad(c)
