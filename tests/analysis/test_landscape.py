"""Losses on planes agree with closed forms and with models at these points."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from samo.analysis import AnalysisError, Landscape, landscape, plane_through, random_plane
from tests.problems import TASKS, Multi, RunningScale
from tests.problems import losses as problem_losses
from tests.snapshots import Expected


def test_losses_of_a_quadratic_have_their_closed_form() -> None:
    """l(θ) = ½ θᵀAθ + cᵀθ is a quadratic in a and b, with these coefficients."""
    torch.manual_seed(0)
    model = nn.Linear(6, 5, bias=False, dtype=torch.float64)
    root = torch.randn(30, 30, dtype=torch.float64)
    hessian, slope = root @ root.T, torch.randn(30, dtype=torch.float64)

    def losses(batch: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        theta = model.weight.flatten()
        quadratic = 0.5 * theta @ hessian @ theta + slope @ theta
        return {t: {"q": quadratic, "l": batch.mean() * slope @ theta}[t] for t in tasks}

    plane = random_plane(model, seed=1)
    batches = [torch.full((3,), 1.0), torch.full((1,), 5.0)]
    view = ((-1.0, 0.5), (-2.0, 2.0))
    found = landscape(model, losses, batches, ["q", "l"], plane, points=7, view=view)
    t, x, y = (d["weight"].flatten() for d in (plane.origin, plane.x, plane.y))
    np.testing.assert_allclose(found.x, np.linspace(-1, 0.5, 7))
    np.testing.assert_allclose(found.y, np.linspace(-2, 2, 7))
    a, b = torch.meshgrid(torch.tensor(found.x), torch.tensor(found.y), indexing="xy")
    gradient = hessian @ t + slope
    expected = (
        0.5 * t @ hessian @ t
        + slope @ t
        + a * (gradient @ x)
        + b * (gradient @ y)
        + 0.5 * a**2 * (x @ hessian @ x)
        + a * b * (x @ hessian @ y)
        + 0.5 * b**2 * (y @ hessian @ y)
    )
    np.testing.assert_allclose(found.grid("q"), expected, rtol=1e-6)
    # The batch of one example counts for a quarter.
    linear = 2.0 * (slope @ t + a * (slope @ x) + b * (slope @ y))
    np.testing.assert_allclose(found.grid("l"), linear, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.grid(), (expected + linear) / 2, rtol=1e-6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})

    def losses(self, batch: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.trunk(batch[0])
        return {t: (self.heads[t](h).squeeze(-1) - batch[1]).square().mean() for t in tasks}


def trained(seed: int) -> Net:
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in BATCHES:
        optimizer.zero_grad()
        torch.stack([*model.losses((x + seed, y), ["a", "b"]).values()]).sum().backward()
        optimizer.step()
    return model


X = torch.linspace(-2, 2, 88).view(22, 4).sin()
Y = X.sum(1)
BATCHES = [(X[:8], Y[:8]), (X[8:16], Y[8:16]), (X[16:], Y[16:])]


def test_losses_of_checkpoints_are_met_on_their_plane() -> None:
    """Each with its own running statistics, in evaluation mode."""
    models = {name: trained(seed) for seed, name in enumerate("uvw")}
    other = trained(7)
    plane = plane_through(other, {name: model.state_dict() for name, model in models.items()})
    for name, model in models.items():
        a, b = plane.points[name]
        view = ((a - 1, a + 1), (b - 1, b + 1))  # the point is in the middle of the grid
        found = landscape(other, other.losses, BATCHES, ["a", "b"], plane, points=3, view=view)
        with torch.no_grad():
            expected = model.eval().losses((X, Y), ["a", "b"])
        for task, loss in expected.items():
            assert found.grid(task)[1, 1] == pytest.approx(float(loss), rel=1e-4)
    assert found.points == plane.points


def test_a_random_plane_passes_through_the_model() -> None:
    model = trained(1)
    found = landscape(model, model.losses, BATCHES, ["a", "b"], points=5)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval().losses((X, Y), ["a", "b"])
    for task, loss in expected.items():
        assert found.grid(task)[2, 2] == pytest.approx(float(loss), rel=1e-5)
        assert found.grid(task).std() > 0
    assert found.points == {"model": (0.0, 0.0)}


def test_every_point_sees_the_same_data_whatever_the_loader_draws() -> None:
    """A shuffling, augmenting loader: its noise would show, since nothing else varies."""
    model = nn.Linear(4, 1)

    def losses(batch: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        noise = torch.rand(()) + torch.from_numpy(np.random.rand(1))[0]  # noqa: NPY002
        value = (batch[0] * torch.rand(len(batch[0]), 1)).mean() + noise
        return dict.fromkeys(tasks, value + 0 * model.weight.sum())

    loader = DataLoader(TensorDataset(X), batch_size=5, shuffle=True)
    found = landscape(model, losses, loader, ["a"], points=3)
    assert np.ptp(found.grid("a")) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_unchanged(fails: bool, mode: bool) -> None:
    torch.manual_seed(0)
    model = Multi(nn.Sequential(nn.Linear(5, 4), RunningScale(4), nn.Dropout(0.3))).double()
    model.train(mode)
    trunk = cast(nn.Sequential, model.trunk)
    trunk[2].eval()
    problem_losses(model, TASKS)["a"].backward()
    states = {}
    for name in "uvw":
        other = copy.deepcopy(model)
        for parameter in other.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        cast(Tensor, cast(nn.Sequential, other.trunk)[1].scale).mul_(1.5)
        states[name] = other.state_dict()
    calls = 0

    def losses(_batch: Tensor, tasks: Sequence[str]) -> Mapping[str, Tensor]:
        nonlocal calls
        calls += 1
        if fails and calls == 15:
            raise ZeroDivisionError
        torch.rand(3)
        return problem_losses(model, tasks)

    for plane in (random_plane(model), plane_through(model, states)):
        calls = 0
        expected = Expected(model)
        try:
            landscape(model, losses, [torch.ones(2), torch.ones(2)], TASKS, plane, points=3)
        except ZeroDivisionError:
            assert fails
        else:
            assert calls == 18
        expected.check(model)


def test_progress_counts_every_evaluation() -> None:
    model = trained(0)
    told: list[tuple[int, int]] = []
    landscape(model, model.losses, BATCHES, ["a"], points=2, progress=lambda *now: told.append(now))
    assert told == [(i, 12) for i in range(1, 13)]


def test_losses_that_are_not_finite_are_none(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)

    def losses(batch: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        size = model.weight.norm() / start
        return dict.fromkeys(tasks, size if size < 1.9 else size / 0)

    start = model.weight.detach().norm()
    view = ((-2.0, 2.0), (-2.0, 2.0))
    found = landscape(model, losses, [torch.ones(2, 3)], ["a"], points=5, view=view)
    grid = found.grid("a")
    assert np.isnan(grid[0, 0])
    assert grid[2, 2] == pytest.approx(1)
    found.save(tmp_path / "landscape.json")
    assert Landscape.load(tmp_path / "landscape.json") == found


def test_invalid_arguments_raise_errors() -> None:
    model = trained(0)
    call = (model, model.losses, BATCHES, ["a", "b"])
    with pytest.raises(AnalysisError, match="points must be at least 2; found 1"):
        landscape(*call, points=1)
    with pytest.raises(AnalysisError, match=r"found b from 1\.0 to 1\.0"):
        landscape(*call, view=((0.0, 1.0), (1.0, 1.0)))
    with pytest.raises(AnalysisError, match="does not fit the model"):
        landscape(*call, random_plane(nn.Linear(2, 2)))
    with pytest.raises(AnalysisError, match="batches is empty"):
        landscape(model, model.losses, [], ["a"])
    grid = ((0.0, 1.0),)
    with pytest.raises(AnalysisError, match="2 rows of 2"):
        Landscape("p", (0.0, 1.0), (0.0, 1.0), {"a": grid}, {})
