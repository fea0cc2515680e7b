"""CAGrad: the primal against its dual, directions around it, and TorchJD's."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
import torchjd.aggregation
from torch import Tensor
from torchjd.linalg import PSDMatrix

from samo.aggregation import CAGrad, CAGradWeighting, ExactProjector, MGDAWeighting
from tests.gramians import draw, gramian_of, harm, jacobians, of_sizes, of_spectrum

CS = [0.1, 0.4, 1.0, 3.0]


def distance(gramian: Tensor, weights: Tensor) -> tuple[float, float]:
    """From the mean gradient, and its norm."""
    mean = torch.full_like(weights, 1 / len(weights))
    away = weights - mean
    return (away @ gramian @ away).clamp(min=0).sqrt().item(), (mean @ gramian @ mean).sqrt().item()


def bound(gramian: Tensor, weights: Tensor, c: float) -> float:
    r"""No direction in the ball helps the worst-off task by more than this.

    That is :math:`g_0^\top g_v + c \|g_0\| \|g_v\|` for any v of the simplex; the weights without
    the mean's are in the direction of the best of them.
    """
    mean = torch.full_like(weights, 1 / len(weights))
    v = (weights - mean).clamp(min=0)
    v = v / v.sum()
    _, norm = distance(gramian, weights)
    return (mean @ gramian @ v + c * norm * (v @ gramian @ v).clamp(min=0).sqrt()).item()


def solves(gramian: Tensor, c: float, tolerance: float = 1e-9) -> None:
    weights = CAGradWeighting(c)(gramian)
    away, norm = distance(gramian, weights)
    assert away <= c * norm * (1 + 1e-6)
    size = norm * gramian.diagonal().sqrt().max().item()
    worst = (gramian @ weights).min().item()
    assert bound(gramian, weights, c) - worst <= tolerance * size


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("c", CS)
@pytest.mark.parametrize("n_tasks", [2, 3, 11, 40])
def test_no_direction_in_the_ball_is_better(n_tasks: int, c: float) -> None:
    for condition in (1e1, 1e4, 1e8):
        solves(of_spectrum(n_tasks, condition), c)
        solves(of_sizes(n_tasks, condition), c)
    for name in ("independent", "aligned", "conflicting", "of all sizes"):
        solves(gramian_of(jacobians(n_tasks)[name]), c)


@pytest.mark.parametrize("c", CS)
@pytest.mark.parametrize("n_tasks", [2, 3, 8])
def test_is_at_least_as_good_as_torchjds(n_tasks: int, c: float) -> None:
    for name in ("independent", "aligned", "conflicting"):
        gramian = gramian_of(jacobians(n_tasks)[name])
        ours = CAGradWeighting(c)(gramian)
        theirs = torchjd.aggregation.CAGradWeighting(c, norm_eps=1e-9)(gramian)
        away, norm = distance(gramian, theirs)
        excess = max(away - c * norm, 0.0)  # theirs may be outside of the ball a little
        size = gramian.diagonal().sqrt().max().item()
        assert (gramian @ ours).min() >= (gramian @ theirs).min() - 2 * excess * size - 1e-9, name
        difference = ours - theirs
        assert difference @ gramian @ difference <= (0.02 * norm + 1e-4 * size) ** 2, name


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 11])
def test_any_gradients(n_tasks: int) -> None:
    for name, matrix in jacobians(n_tasks).items():
        gramian = gramian_of(matrix)
        for c in CS:
            weights = CAGradWeighting(c)(gramian)
            assert weights.isfinite().all(), name
            if c >= 1:  # the ball reaches a direction that harms no task
                assert harm(matrix, weights) <= 1e-5, (name, c)


def test_limits() -> None:
    gramian = of_spectrum(6, 1e2)
    mean = torch.full((6,), 1 / 6, dtype=torch.float64)
    torch.testing.assert_close(CAGradWeighting(0.0)(gramian), mean)
    far = CAGradWeighting(1e6)(gramian)
    torch.testing.assert_close(far / far.sum(), MGDAWeighting()(gramian), rtol=1e-3, atol=1e-5)
    assert CAGrad(0.5)(torch.tensor([[3.0, 4.0]])).tolist() == pytest.approx([4.5, 6.0])


def test_where_nothing_helps_all_it_harms_none() -> None:
    matrix = torch.tensor([[1.0, 0, 0], [-2, 0, 0], [1, 3, 0]], dtype=torch.float64)
    gramian = gramian_of(matrix)
    mean = torch.full((3,), 1 / 3, dtype=torch.float64)
    unharmed = ExactProjector()(mean, cast(PSDMatrix, gramian)) @ matrix
    torch.testing.assert_close(CAGradWeighting(2.0)(gramian) @ matrix, unharmed)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_the_gradients(factor: float) -> None:
    gramian = of_spectrum(11, 1e3)
    expected = CAGradWeighting()(gramian)
    torch.testing.assert_close(CAGradWeighting()(gramian * factor), expected, rtol=1e-8, atol=1e-10)


def test_the_order_of_the_tasks() -> None:
    order, gramian = torch.randperm(9), of_spectrum(9, 1e3)
    mixed = CAGradWeighting()(gramian[order][:, order])
    torch.testing.assert_close(mixed, CAGradWeighting()(gramian)[order], rtol=1e-8, atol=1e-10)


def test_options() -> None:
    assert repr(CAGrad()) == "CAGrad(c=0.4)"
    assert repr(CAGradWeighting(1.0)) == "CAGradWeighting(c=1.0)"
    method = CAGrad()
    method.c = 0.5
    assert method.gramian_weighting.c == 0.5
    for value in (-0.1, math.inf):
        with pytest.raises(ValueError, match=r"c must be in \[0, inf\); found"):
            method.c = value
    assert CAGrad()(draw(3, 5).float()).dtype == torch.float32
