"""Planes, and trajectories on them, agree with numpy."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samo.analysis import (
    AnalysisError,
    Trajectory,
    plane_through,
    random_plane,
    trajectory,
    trajectory_plane,
)
from tests.snapshots import rng, values
from tests.tools import same


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )


def checkpoint(seed: int) -> dict[str, Tensor]:
    model = network()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        for _ in range(seed):
            model(torch.randn(5, 2, 4, 4, generator=generator) * seed)
    return model.state_dict()


def flat(state: dict[str, Tensor]) -> np.ndarray:
    names = [name for name, _ in network().named_parameters()]
    return np.concatenate([state[name].double().flatten().numpy() for name in names])


def test_filters_have_the_norms_of_the_models() -> None:
    model = network()
    first, last = cast(nn.Conv2d, model[0]), cast(nn.Linear, model[4])
    first.weight.data[1] = 0.0
    last.weight.requires_grad_(False)
    before, states = values(model), rng()
    plane = random_plane(model, seed=3)
    same(values(model), before)
    same(rng(), states)
    for direction in (plane.x, plane.y):
        assert "4.weight" not in direction
        for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
            assert not direction[name].any()
        for channel in range(3):
            total = sum(float(v) ** 2 for v in direction["0.weight"][channel].flatten())
            own = sum(float(v) ** 2 for v in first.weight.detach()[channel].flatten())
            assert total == pytest.approx(own, rel=1e-5)
    x, y = (d["0.weight"].flatten() for d in (plane.x, plane.y))
    cosine = torch.cosine_similarity(x, y, dim=0)
    assert abs(cosine) < 0.5  # two directions, not one


def test_a_random_direction_is_gaussian_up_to_the_norms_of_its_filters() -> None:
    model = nn.Linear(400, 3, bias=False)
    z = random_plane(model, seed=1).x["weight"]
    for row, own in zip(z, model.weight, strict=True):
        scaled = row / row.square().mean().sqrt()
        assert abs(scaled.mean()) < 0.2
        assert scaled.pow(4).mean() == pytest.approx(3.0, abs=0.9)
        torch.testing.assert_close(row.norm(), own.norm())
    assert torch.equal(random_plane(model, seed=1).x["weight"], z)
    assert not torch.equal(random_plane(model, seed=2).x["weight"], z)


def test_a_model_without_filters_has_no_random_plane() -> None:
    with pytest.raises(AnalysisError, match="random directions are zero"):
        random_plane(nn.BatchNorm1d(3))


def test_a_plane_goes_through_its_three_checkpoints() -> None:
    states = {name: checkpoint(seed) for seed, name in enumerate(("one", "two", "three"))}
    plane = plane_through(network(), states)
    for name, state in states.items():
        point = plane.at(*plane.points[name])
        for key, tensor in point.items():
            torch.testing.assert_close(tensor, state[key], msg=f"{name}: {key}")
        for (low, high), c in zip(plane.view, plane.points[name], strict=True):
            assert low < c < high
    assert {"1.running_mean", "1.running_var"} <= set(plane.origin)
    assert "1.num_batches_tracked" not in plane.origin
    x, y = flat(dict(plane.x)), flat(dict(plane.y))
    np.testing.assert_allclose([x @ x, y @ y, x @ y], [1, 1, 0], atol=1e-6)
    # Distances on the plane are distances between the parameters.
    ways = [flat(state) for state in states.values()]
    places = np.array(list(plane.points.values()))
    for i in range(3):
        for j in range(i):
            apart = np.linalg.norm(places[i] - places[j])
            assert apart == pytest.approx(np.linalg.norm(ways[i] - ways[j]), rel=1e-6)


def test_no_variance_is_negative_beyond_the_checkpoints() -> None:
    states = {name: checkpoint(seed) for seed, name in enumerate("abc")}
    plane = plane_through(network(), states)
    seen = torch.stack([state["1.running_var"] for state in states.values()])
    for a, b in [(50.0, 0.0), (-50.0, -50.0), (0.0, 50.0)]:
        variance = plane.at(a, b)["1.running_var"]
        assert (variance >= seen.amin(0)).all()
        assert (variance <= seen.amax(0)).all()


@pytest.mark.parametrize(
    ("third", "message"), [("a", "are on a line"), ("b", "are on a line"), (None, "three state")]
)
def test_checkpoints_that_span_no_plane_raise_errors(third: str | None, message: str) -> None:
    states = {"a": checkpoint(0), "b": checkpoint(1)}
    if third is not None:
        states["c"] = states[third]
    with pytest.raises(AnalysisError, match=message):
        plane_through(network(), states)


def test_checkpoints_of_another_model_raise_errors() -> None:
    whole = checkpoint(0)
    lacking = {name: tensor for name, tensor in whole.items() if name != "4.bias"}
    with pytest.raises(AnalysisError, match=r"checkpoint c .* no '4.bias'"):
        plane_through(network(), {"a": whole, "b": checkpoint(1), "c": lacking})
    odd = {**whole, "4.bias": torch.zeros(5)}
    with pytest.raises(AnalysisError, match=r"number 2 .* shape \[4\]; found \[5\]"):
        trajectory(network(), [whole, odd])
    with pytest.raises(AnalysisError, match="found list"):
        trajectory(network(), [[]])  # type: ignore[list-item]
    with pytest.raises(AnalysisError, match="equal"):
        plane_through(network(), {"a": whole, "b": whole, "c": checkpoint(1)})
    with pytest.raises(AnalysisError, match="found 2"):
        trajectory_plane(network(), [whole, checkpoint(1)])
    with pytest.raises(AnalysisError, match="on a line"):
        trajectory_plane(network(), [whole, checkpoint(1), whole])
    with pytest.raises(AnalysisError, match="empty"):
        trajectory(network(), [])


def test_a_trajectorys_plane_is_that_of_the_singular_vectors() -> None:
    states = [checkpoint(seed) for seed in range(6)]
    plane = trajectory_plane(network(), states)
    found = trajectory(network(), states)
    ways = np.stack([flat(state) for state in states])
    _, s, vectors = np.linalg.svd(ways - ways.mean(0), full_matrices=False)
    for direction, vector in zip((plane.x, plane.y), vectors, strict=False):
        assert abs(flat(dict(direction)) @ vector) == pytest.approx(1, abs=1e-6)
    assert found.share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), rel=1e-6)
    signs = [np.sign(flat(dict(d)) @ v) for d, v in zip((plane.x, plane.y), vectors, strict=False)]
    expected = (ways - ways[-1]) @ vectors[:2].T * signs
    np.testing.assert_allclose(found.points, expected, atol=1e-4)
    assert found.points[-1] == pytest.approx((0, 0), abs=1e-6)
    assert found.points[0][0] <= 0
    assert found.points[0][1] <= 0


def test_projection_is_orthogonal_on_any_plane() -> None:
    """It agrees with least squares for directions that are not orthonormal."""
    states = [checkpoint(seed) for seed in range(4)]
    model = network()
    plane = random_plane(model, seed=5)
    found = trajectory(model, states, plane)
    basis = np.stack([flat(dict(plane.x)), flat(dict(plane.y))], axis=1)
    away = np.stack([flat(state) for state in states]) - flat(model.state_dict())
    expected = np.linalg.lstsq(basis, away.T, rcond=None)[0].T
    np.testing.assert_allclose(found.points, expected, atol=1e-5)
    q, _ = np.linalg.qr(basis)
    centred = away - away.mean(0)
    share = ((centred @ q) ** 2).sum() / (centred**2).sum()
    assert found.share == pytest.approx(share, rel=1e-5)


def test_checkpoints_on_the_plane_have_a_share_of_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    states = {name: checkpoint(seed) for seed, name in enumerate("abc")}
    plane = plane_through(network(), states)
    found = trajectory(network(), list(states.values()), plane)
    assert found.share == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.points, list(plane.points.values()), atol=1e-5)
    alone = trajectory(network(), [states["a"]], plane)
    assert alone.share is None
    path = tmp_path_factory.mktemp("trajectory") / "trajectory.json"
    for result in (found, alone):
        result.save(path)
        assert Trajectory.load(path) == result
