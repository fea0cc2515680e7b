"""Quadratic programs over x ≥ 0: the conditions of optimality, by both ways to solve them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from samo.aggregation.solvers import (
    ConvergenceError,
    NonnegativePrograms,
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


@pytest.mark.parametrize("rounds", [0, 2, 10])
@pytest.mark.parametrize("condition", [1e9, 1e12])
def test_hard_programs(condition: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the exchanges of whole sets leave is solved by the other method."""
    monkeypatch.setattr(_nonnegative, "_ROUNDS", rounds)
    for n_tasks in (3, 12, 30):
        optimal(of_spectrum(n_tasks, condition), draw(3, n_tasks))
    for matrix in jacobians(11).values():
        gramian = gramian_of(matrix)
        optimal(gramian, draw(3, 11) @ torch.as_tensor(normalized(gramian)[0]))


def test_what_is_not_solved_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nonnegative, "_ROUNDS", 0)
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
