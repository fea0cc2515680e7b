"""Projections onto the dual cone: the conditions of optimality, and TorchJD's projector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import DualProjWeighting, UPGrad, UPGradWeighting
from torchjd.linalg import QuadprogProjector

from samo.aggregation import ExactProjector
from tests.gramians import draw, gramian_of, harm, jacobians, of_sizes, of_spectrum

project: Any = ExactProjector()


def solves(gramian: Tensor, u: Tensor) -> None:
    """v ≥ u, G v ≥ 0 and (v − u)ᵀ G v = 0, in the units of each task."""
    v = project(u, gramian)
    assert v.shape == u.shape
    norms = gramian.diagonal().sqrt()
    added = (v - u) * norms
    image = (v @ gramian) / norms.clamp(min=1e-300)
    cosines = gramian / (norms * norms[:, None]).clamp(min=1e-300)
    size = ((u.abs() * norms + added.abs()) @ cosines.abs()).amax(-1, keepdim=True) + 1e-300
    assert (added >= -1e-14 * (u.abs() * norms)).all()
    assert (image >= -2e-12 * size).all()
    assert (added * image <= 5e-12 * added.abs().amax(-1, keepdim=True) * size).all()


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("n_tasks", [1, 2, 3, 11, 40])
def test_conditions_of_optimality(n_tasks: int) -> None:
    u = draw(2, 3, n_tasks)
    for condition in (1e1, 1e4, 1e8):
        solves(of_spectrum(n_tasks, condition), u)
        solves(of_sizes(n_tasks, condition), u)
    for matrix in jacobians(n_tasks).values():
        solves(gramian_of(matrix), torch.eye(n_tasks, dtype=torch.float64))


@pytest.mark.parametrize("kind", [UPGradWeighting, DualProjWeighting])
@pytest.mark.parametrize("n_tasks", [2, 3, 11, 40])
def test_agrees_with_torchjds_without_its_regularisation(n_tasks: int, kind: type) -> None:
    exact, theirs = kind(projector=project), kind(projector=QuadprogProjector(reg_eps=1e-13))
    for name in ("independent", "aligned", "conflicting"):
        gramian = gramian_of(jacobians(n_tasks)[name])
        torch.testing.assert_close(exact(gramian), theirs(gramian), rtol=1e-5, atol=1e-7, msg=name)
    # With it, theirs is another point, and worse.
    gramian = gramian_of(jacobians(n_tasks)["conflicting"])
    regularised = kind()(gramian)
    assert (gramian @ exact(gramian)).min() >= (gramian @ regularised).min() - 1e-9


@pytest.mark.parametrize("kind", [UPGradWeighting, DualProjWeighting])
@pytest.mark.parametrize("n_tasks", [2, 3, 11, 40])
def test_no_loss_rises(n_tasks: int, kind: type) -> None:
    for name, matrix in jacobians(n_tasks).items():
        weights = kind(projector=project)(gramian_of(matrix))
        assert weights.isfinite().all(), name
        assert harm(matrix, weights) <= 1e-6, name


def test_no_conflict_no_change() -> None:
    gramian = gramian_of(jacobians(5)["aligned"].abs())
    u = torch.rand(5, dtype=torch.float64)
    assert torch.equal(project(u, gramian), u)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_the_gradients(factor: float) -> None:
    gramian, u = of_spectrum(11, 1e3), torch.eye(11, dtype=torch.float64)
    torch.testing.assert_close(project(u, gramian * factor), project(u, gramian))


def test_the_order_of_the_tasks() -> None:
    order, gramian = torch.randperm(9), of_spectrum(9, 1e3)
    weigh = UPGradWeighting(projector=project)
    torch.testing.assert_close(weigh(gramian[order][:, order]), weigh(gramian)[order])


def test_dtypes_and_repr() -> None:
    u = torch.eye(3)
    assert project(u, torch.eye(3)).dtype == torch.float32
    assert repr(UPGrad(projector=project)).endswith("projector=ExactProjector())")
    with pytest.raises(ValueError, match="The Gramian must be finite"):
        project(u, torch.full((3, 3), torch.nan))
