"""Random Gramians of many kinds, and what tells whether weights solve a method's problem."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, dtype=torch.float64)


def of_spectrum(n_tasks: int, condition: float, *, even: bool = True) -> Tensor:
    """Eigenvectors without preference, eigenvalues from 1 to 1 / condition."""
    vectors = torch.linalg.qr(draw(n_tasks, n_tasks)).Q
    exponents = torch.linspace(0, 1, n_tasks).double() if even else uniform(0, 1, n_tasks)
    gramian = (vectors * condition**-exponents) @ vectors.T
    return (gramian + gramian.T) / 2


def of_sizes(n_tasks: int, condition: float) -> Tensor:
    """Independent gradients whose squared norms range over the condition number."""
    sizes = condition ** uniform(-0.25, 0.25, n_tasks)
    matrix = draw(n_tasks, 3 * n_tasks) * sizes[:, None]
    return matrix @ matrix.T


def jacobians(n_tasks: int) -> dict[str, Tensor]:
    """Gradients of all kinds that training may meet, and a few that it will not."""
    cut = max(1, n_tasks // 2)
    basic, common = draw(n_tasks, 2 * n_tasks + 5), draw(2 * n_tasks + 5)
    repeated = basic[torch.arange(n_tasks) % cut]
    conflicting = basic - 0.999 * basic.mean(0)
    zero = basic.clone()
    zero[:cut] = 0
    return {
        "independent": basic,
        "aligned": basic + common,
        "conflicting": conflicting,
        "of all sizes": basic * 10 ** uniform(-5, 5, n_tasks)[:, None],
        "few dimensions": draw(n_tasks, cut) + draw(cut),
        "identical": common.expand(n_tasks, -1).clone(),
        "repeated": repeated,
        "some zero": zero,
        "all zero": torch.zeros(n_tasks, 3, dtype=torch.float64),
        "opposite": torch.cat([basic[:cut], -basic[:cut], basic])[:n_tasks],
        "stationary": basic - basic.mean(0),
    }


def gramian_of(matrix: Tensor) -> Tensor:
    return matrix @ matrix.T


def shortest(gramian: Tensor) -> Tensor:
    """MGDA's weights for a few independent gradients: the best of all sets of tasks."""
    n_tasks = len(gramian)
    best, least = torch.zeros(n_tasks, dtype=torch.float64), math.inf
    for number in range(1, 2**n_tasks):
        tasks = [task for task in range(n_tasks) if number >> task & 1]
        inner = gramian[tasks][:, tasks]
        weights = torch.linalg.solve(inner, torch.ones(len(tasks), dtype=torch.float64))
        weights = weights / weights.sum()
        value = (weights @ inner @ weights).item()
        if (weights >= 0).all() and value < least:
            best, least = torch.zeros_like(best), value
            best[tasks] = weights
    return best


def attainable(gramian: Tensor, weights: Tensor) -> float:
    """How near to each other float64 weights can bring G w and w^(-1/α), in units of the latter.

    Rounding the weights alone changes G w by this much.
    """
    return EPSILON * (gramian.abs() @ weights).max().item()


def fairness_error(gramian: Tensor, weights: Tensor, alpha: float) -> tuple[float, float]:
    """‖G w − w^(-1/α)‖ over ‖w^(-1/α)‖, and what of that the weights' own rounding makes."""
    right = weights ** (-1 / alpha)
    size = right.abs().max().item()
    error = (gramian @ weights - right).abs().max().item() / size
    return error, attainable(gramian, weights) / size


def harm(matrix: Tensor, weights: Tensor) -> float:
    """By how much the direction worsens a task: -min cos(g_i, d), 0 where it does not.

    Less than 1e-12 of the gradients that make it up is left to the solvers.
    """
    gramian = gramian_of(matrix)
    norms = gramian.diagonal().sqrt()
    length = (weights @ gramian @ weights).clamp(min=0).sqrt()
    image = (gramian @ weights) / norms.clamp(min=1e-300)
    rounding = 1e-12 * len(weights) * (weights.abs() @ norms)
    return max(0.0, (-image - rounding).max().item()) / max(length.item(), math.ulp(0))
