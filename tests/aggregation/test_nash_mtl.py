"""Nash-MTL: the bargaining solution, its length, and TorchJD's of the matrix."""

from __future__ import annotations

import math

import pytest
import torch
import torchjd.aggregation

from samo.aggregation import FairGradWeighting, NashMTL, NashMTLWeighting
from tests.gramians import draw, gramian_of, harm, jacobians, of_spectrum


@pytest.mark.parametrize("n_tasks", [1, 2, 5, 40])
def test_the_length_of_the_direction(n_tasks: int) -> None:
    matrix = draw(n_tasks, n_tasks + 5)
    assert NashMTL(max_norm=0.0)(matrix).norm().item() == pytest.approx(math.sqrt(n_tasks))
    assert NashMTL(max_norm=100.0)(matrix).norm().item() == pytest.approx(math.sqrt(n_tasks))
    assert NashMTL()(matrix).norm().item() == pytest.approx(1.0)
    assert NashMTL(max_norm=0.25)(matrix).norm().item() == pytest.approx(0.25)


def test_is_one_of_the_fair_ones() -> None:
    gramian = of_spectrum(6, 1e4)
    fair, bargained = FairGradWeighting(1.0)(gramian), NashMTLWeighting(0.0)(gramian)
    torch.testing.assert_close(bargained, fair, rtol=1e-15, atol=0)
    torch.testing.assert_close(bargained * (gramian @ bargained), torch.ones(6).double())


def test_agrees_with_torchjd_where_that_converges() -> None:
    for n_tasks in (2, 3, 5):
        matrix = draw(n_tasks, 3 * n_tasks + 5)
        theirs = torchjd.aggregation.NashMTL(n_tasks, max_norm=1.0, optim_niter=100)
        for _ in range(5):  # each call goes on from the weights of the last one
            direction = theirs(matrix)
        torch.testing.assert_close(NashMTL()(matrix), direction, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("n_tasks", [2, 3, 11, 40])
def test_no_loss_rises(n_tasks: int) -> None:
    for name, matrix in jacobians(n_tasks).items():
        weights = NashMTLWeighting()(gramian_of(matrix))
        assert weights.isfinite().all()
        assert harm(matrix, weights) <= 1e-9, name


def test_nothing_to_bargain_for() -> None:
    matrix = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(NashMTL()(matrix), torch.tensor([0.6, 0.8]))
    assert NashMTL()(torch.zeros(2, 3)).tolist() == [0, 0, 0]
    assert NashMTL()(torch.tensor([[1.0], [-1.0]])).tolist() == [0]


def test_options() -> None:
    assert repr(NashMTL()) == "NashMTL(max_norm=1.0)"
    assert repr(NashMTLWeighting(0.5)) == "NashMTLWeighting(max_norm=0.5)"
    method = NashMTL(2)
    method.max_norm = 0.25
    assert method.gramian_weighting.max_norm == 0.25
    with pytest.raises(ValueError, match=r"max_norm must be in \[0, inf\); found -1"):
        method.max_norm = -1
    assert method.max_norm == 0.25
