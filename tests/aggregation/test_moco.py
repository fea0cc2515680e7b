"""MoCo, held against its equations with a projection by a quadratic program."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from samo.aggregation import MoCo
from samo.aggregation.solvers import onto_simplex
from tests.aggregation.subject import gradients


def nearest(point: np.ndarray) -> np.ndarray:
    k = len(point)
    found = minimize(  # type: ignore[call-overload]
        lambda w: ((w - point) ** 2).sum(),
        np.ones(k) / k,
        jac=lambda w: 2 * (w - point),
        bounds=[(0, None)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return np.asarray(found.x)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_projection(k: int, scale: float) -> None:
    point = scale * torch.randn(k, dtype=torch.float64)
    expected = torch.from_numpy(nearest(point.numpy()))
    torch.testing.assert_close(onto_simplex(point), expected, rtol=0, atol=1e-6)


def test_projection_from_far_away() -> None:
    point = torch.tensor([1e30, -1e30, 1.0, 1e30], dtype=torch.float64)
    assert onto_simplex(point).tolist() == [0.5, 0.0, 0.0, 0.5]


def test_equations() -> None:
    method = MoCo(beta=0.6, beta_sigma=0.5, gamma=0.2, gamma_sigma=0.25, rho=0.3)
    y, weights = torch.zeros(3, 23, dtype=torch.float64), np.ones(3) / 3
    for k in range(1, 8):
        g = gradients("random", 3) * k + torch.sin(torch.arange(23.0) * k)
        y = y - 0.6 / k**0.5 * (y - g)
        pull = (y @ y.T + 0.3 * torch.eye(3)).numpy() @ weights
        weights = nearest(weights - 0.2 / k**0.25 * pull)
        torch.testing.assert_close(method(g), torch.from_numpy(weights) @ y, rtol=0, atol=1e-4)


def test_tracks_a_constant_gradient() -> None:
    """The tracked gradients come to the true ones, and the direction to a common descent."""
    method, rows = MoCo(beta_sigma=0.0), gradients("conflicting", 3)
    for _ in range(300):
        direction = method(rows)
    assert (rows @ direction >= -1e-3).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\]; found 0"):
        MoCo(beta=0)
    method = MoCo()
    method(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"MoCo keeps gradients of shape \(2, 3\); found \(2, 4\)"):
        method(torch.ones(2, 4))
