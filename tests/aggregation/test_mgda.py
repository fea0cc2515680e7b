"""MGDA: the duality gap, all sets of tasks, and gradients without a common descent direction."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation
from torch import Tensor

from samo.aggregation import MGDA, MGDAWeighting
from tests.gramians import (
    EPSILON,
    draw,
    gramian_of,
    harm,
    jacobians,
    of_sizes,
    of_spectrum,
    shortest,
    uniform,
)

weigh = MGDAWeighting()


def gap(gramian: Tensor, weights: Tensor) -> float:
    """wᵀ G w − min_i (G w)_i, relative to the squares of the gradients that have weights."""
    assert (weights >= 0).all()
    assert weights.sum().item() == pytest.approx(1.0)
    image = gramian @ weights
    size = (weights @ gramian.diagonal()).item()
    return (weights @ image - image.min()).item() / (size or 1.0)


def close_gap(samples: int) -> None:
    for index in range(samples):
        n_tasks = int(torch.randint(2, 41, ()))
        condition = float(10 ** uniform(0, 12))
        if index % 3 == 2:
            gramian = of_sizes(n_tasks, condition)
        else:
            gramian = of_spectrum(n_tasks, condition, even=index % 3 == 0)
        assert gap(gramian, weigh(gramian)) <= 1e-11, (index, n_tasks, condition)


def test_closes_the_gap() -> None:
    close_gap(250)


@pytest.mark.slow
def test_closes_the_gap_ten_thousand_times() -> None:
    close_gap(10_000)


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("n_tasks", [1, 2, 3, 11, 40])
def test_any_gradients(n_tasks: int) -> None:
    for name, matrix in jacobians(n_tasks).items():
        gramian = gramian_of(matrix)
        weights = weigh(gramian)
        assert gap(gramian, weights) <= 1e-11, name
        assert harm(matrix, weights) <= 1e-6, name
        assert torch.equal(weights, weigh(gramian)), name


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 7])
def test_is_the_best_of_all_sets_of_tasks(n_tasks: int) -> None:
    for condition in (1e1, 1e6):
        for gramian in (of_spectrum(n_tasks, condition), of_sizes(n_tasks, condition)):
            torch.testing.assert_close(weigh(gramian), shortest(gramian), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_tasks", [2, 3, 11])
def test_agrees_with_torchjd_given_time(n_tasks: int) -> None:
    gramian = of_spectrum(n_tasks, 10.0)
    theirs = torchjd.aggregation.MGDAWeighting(epsilon=1e-7, max_iters=3000)(gramian)
    ours = weigh(gramian)
    least, found = (ours @ gramian @ ours).item(), (theirs @ gramian @ theirs).item()
    # Two computations of wᵀ G w, a sum of n² terms, of which none cancels much at this condition.
    rounding = n_tasks**2 * EPSILON * (ours @ gramian.abs() @ ours).item()
    assert least - rounding <= found <= 1.01 * least


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_the_gradients(factor: float) -> None:
    gramian = of_spectrum(11, 1e3)
    torch.testing.assert_close(weigh(gramian * factor), weigh(gramian), rtol=1e-9, atol=1e-12)


def test_the_order_of_the_tasks() -> None:
    order = torch.randperm(9)
    for name, matrix in jacobians(9).items():
        mixed, expected = weigh(gramian_of(matrix[order])), weigh(gramian_of(matrix))
        size = matrix.norm(dim=1).max().item()  # there may be more than one solution
        difference = mixed @ matrix[order] - expected @ matrix
        assert difference.norm().item() <= 1e-6 * size, name


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[3.0, 4.0]], [1.0]),
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [1 / 3, 1 / 3, 1 / 3]),
        ([[1.0, 0.0], [-3.0, 0.0]], [0.75, 0.25]),
        ([[1.0, 0.0], [2.0, 0.0]], [1.0, 0.0]),
        ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0.0, 0.5, 0.5]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.5, 0.5]),
        ([[1e-9, 0.0], [0.0, 1e9]], [1.0, 1e-36]),
    ],
)
def test_closed_forms(matrix: list[list[float]], expected: list[float]) -> None:
    weights = weigh(gramian_of(torch.tensor(matrix, dtype=torch.float64)))
    torch.testing.assert_close(weights.tolist(), expected, rtol=1e-6, atol=0)


def test_dtypes_and_repr() -> None:
    matrix = draw(4, 9)
    expected = MGDA()(matrix)
    for dtype in (torch.bfloat16, torch.float32):
        found = MGDA()(matrix.to(dtype))
        assert found.dtype == dtype
        precision = 30 * torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=precision)
    assert repr(MGDA()) == "MGDA()"
    assert repr(weigh) == "MGDAWeighting()"
