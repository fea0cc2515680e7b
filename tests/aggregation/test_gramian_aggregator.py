"""Aggregators of the Gramian, called on matrices of any dtype, rank and size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from samo import aggregation
from samo.aggregation import ConicGrad, FairGradWeighting
from samo.aggregation._gramian_aggregator import GramianAggregator
from tests.gramians import draw, gramian_of

METHODS = ["fairgrad", "nash-mtl", "conicgrad", "mgda", "cagrad", "upgrad", "dualproj"]


def low_rank(n_tasks: int, rank: int, columns: int = 11) -> Tensor:
    """Gradients of a few dimensions, all of about the norm 1."""
    rows = draw(n_tasks, rank) @ draw(rank, columns)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_any_size_and_rank(method: str, dtype: torch.dtype) -> None:
    """Powers of two, so that the scaled matrix is that of before to all digits."""
    for n_tasks, rank in [(2, 1), (3, 2), (9, 5), (9, 9), (12, 3)]:
        matrix = low_rank(n_tasks, rank).to(dtype)
        aggregator: Any = aggregation.create(method, n_tasks)
        found = [aggregator.weighting(matrix * 2.0**p).double() for p in (0, -50, -17, 33, 50)]
        expected, *others = [weights / (weights.norm() or 1.0) for weights in found]
        for weights in others:
            bound = max(2 * torch.finfo(dtype).eps, 1e-9)
            torch.testing.assert_close(weights, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("method", ["fairgrad", "nash-mtl", "conicgrad", "mgda", "cagrad"])
def test_float32_loses_no_digits_of_the_gramian(method: str) -> None:
    """The smallest eigenvalue, 1e-10, is below the rounding of a Gramian in float32."""
    for n_tasks in (2, 5, 11):
        matrix = (torch.ones(1, 40).double() + 1e-5 * draw(n_tasks, 40)).float()
        aggregator = aggregation.create(method, n_tasks)
        assert isinstance(aggregator, GramianAggregator)
        expected = aggregator.gramian_weighting(gramian_of(matrix.double()))
        weights = aggregator.weighting(matrix)
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)


def test_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, aggregator = draw(5, 1000), aggregation.create("fairgrad", 5)
    expected = aggregator(matrix)
    for block in (1, 17, 4999):
        monkeypatch.setattr("samo.aggregation._gramian_aggregator._BLOCK", block)
        torch.testing.assert_close(aggregator(matrix), expected, rtol=1e-9, atol=1e-12)
    assert aggregator(matrix[:, :0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_a_gramian_rounded_to_a_coarse_dtype(alpha: float, dtype: torch.dtype) -> None:
    """Rounding makes its smallest eigenvalues negative; an answer is still an answer."""
    for n_tasks in (2, 4, 7, 10, 12):
        for rank in range(1, n_tasks + 1):
            matrix = low_rank(n_tasks, rank, 15)
            gramian = gramian_of(matrix).to(dtype)
            weights = FairGradWeighting(alpha)(gramian).double()
            assert weights.isfinite().all()
            assert (weights >= 0).all()
            improvement = matrix @ (weights @ matrix)
            noise = 4 * n_tasks**0.5 * torch.finfo(dtype).eps
            assert (improvement >= -noise * weights.sum()).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("c", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_conicgrad_on_singular_gramians(c: float) -> None:
    """Fewer dimensions than tasks, duplicates, and norms and spectra over 15 orders."""
    for index in range(60):
        n_tasks = 2 + index % 9
        rank = 1 + index % max(1, n_tasks - 1)
        matrix = draw(n_tasks, rank)
        if index % 4 == 1:
            matrix = matrix * 10 ** -torch.linspace(0, 15, rank, dtype=torch.float64)
        elif index % 4 == 2:
            matrix = matrix * 10 ** -torch.linspace(0, 15, n_tasks, dtype=torch.float64)[:, None]
        elif index % 4 == 3:
            matrix = matrix[torch.randint(0, n_tasks, (n_tasks,))]
        for rows in (matrix, matrix.float()):
            weights = ConicGrad(c).gramian_weighting(rows @ rows.T).double()
            assert weights.isfinite().all()
            direction, mean = weights @ matrix, matrix.mean(0)
            slack = 1e-6 * (weights * matrix.norm(dim=1)).sum()
            assert direction @ mean >= (c * direction.norm() - slack) * mean.norm()
