"""Quadratic programs over x ≥ 0: the conditions of optimality, by all ways to solve them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from samo.aggregation.solvers import (
    ConvergenceError,
    NonnegativePrograms,
    _exchanges,
    _nonnegative,
    normalized,
    resolution,
    to_array,
)
from tests.gramians import draw, gramian_of, jacobians, of_sizes, of_spectrum


def solved(gramian: Tensor, linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C, the solutions, and C x + q."""
    cosines, _ = normalized(gramian)
    x, positive = NonnegativePrograms(cosines, resolution(gramian)).solve(to_array(linear))
    x, c = torch.as_tensor(x), torch.as_tensor(cosines)
    assert (x >= 0).all()
    assert positive.shape == x.shape
    return c, x, x @ c + linear


def optimal(gramian: Tensor, linear: Tensor) -> None:
    c, x, slack = solved(gramian, linear)
    largest = x.amax(1, keepdim=True)
    size = (x @ c.abs() + linear.abs()).amax(1, keepdim=True) + largest
    assert (slack >= -1e-12 * size).all()
    assert (x * slack.abs() <= 2e-12 * largest * size).all()


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("n_tasks", [1, 2, 7, 40])
def test_conditions_of_optimality(n_tasks: int) -> None:
    linear = draw(5, n_tasks)
    for condition in (1e1, 1e4, 1e7):
        optimal(of_spectrum(n_tasks, condition), linear)
        optimal(of_sizes(n_tasks, condition), linear)
    for matrix in jacobians(n_tasks).values():
        gramian = gramian_of(matrix)
        cosines = torch.as_tensor(normalized(gramian)[0])
        optimal(gramian, draw(5, n_tasks) @ cosines)  # in its range, so that there is a solution


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize(("rounds", "exchanges"), [(0, 5), (2, 5), (10, 5), (0, 0), (0, 1)])
@pytest.mark.parametrize("condition", [1e9, 1e12])
def test_hard_programs(
    condition: float, rounds: int, exchanges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever one way to solve them leaves is solved by the next."""
    monkeypatch.setattr(_nonnegative, "_ROUNDS", rounds)
    monkeypatch.setattr(_exchanges, "_MOST", exchanges)
    for n_tasks in (3, 12, 30):
        optimal(of_spectrum(n_tasks, condition), draw(3, n_tasks))
    for matrix in jacobians(11).values():
        gramian = gramian_of(matrix)
        optimal(gramian, draw(3, 11) @ torch.as_tensor(normalized(gramian)[0]))


@pytest.mark.parametrize("condition", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("n_tasks", [10, 25, 60])
def test_single_exchanges_solve_projections(
    n_tasks: int, condition: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs of UPGrad, one for each gradient, without the interior-point method."""
    monkeypatch.setattr(_nonnegative, "_STEPS", 0)
    gramian = of_spectrum(n_tasks, condition)
    optimal(gramian, torch.as_tensor(normalized(gramian)[0]))


def test_what_is_not_solved_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nonnegative, "_ROUNDS", 0)
    monkeypatch.setattr(_exchanges, "_MOST", 0)
    monkeypatch.setattr(_nonnegative, "_STEPS", 3)
    with pytest.raises(ConvergenceError, match="of 9 gradients did not converge in 3 steps"):
        solved(of_spectrum(9, 1e6), draw(2, 9))


@pytest.mark.parametrize("guess", [True, False])
def test_any_guess_leads_there(guess: bool) -> None:
    gramian, linear = of_spectrum(9, 1e3), draw(2, 9)
    _, expected, _ = solved(gramian, linear)
    programs: Any = NonnegativePrograms(normalized(gramian)[0], resolution(gramian))
    marks = to_array(torch.full((2, 9), guess, dtype=torch.float64)) > 0
    x, _ = programs.solve(to_array(linear), marks)
    torch.testing.assert_close(torch.as_tensor(x), expected, rtol=1e-9, atol=1e-12)


def test_dependent_gradients_share() -> None:
    gramian = gramian_of(draw(1, 5).expand(4, -1))
    _, x, _ = solved(gramian, torch.full((1, 4), -1.0, dtype=torch.float64))
    torch.testing.assert_close(x, torch.full((1, 4), 0.25, dtype=torch.float64), rtol=0.02, atol=0)
