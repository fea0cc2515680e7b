"""The toy problems: their losses and Pareto fronts, and the results of the literature."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samo import aggregation, toy
from samo.toy import FRONT, PROBLEMS, VALLEY
from samo.training import PRESETS, RunError
from tests.tools import in_pairs


def by_hand(problem: str, x1: float, x2: float) -> tuple[float, float]:
    """Evaluates the published equations in plain Python."""
    if problem == "valley":
        return (
            1 - 1 / (1 + 0.1 * (x1**4 + x2**4)),
            1 - math.exp(-2 * (x1 + 4) ** 2 - 2 * x2**2),
        )
    f1 = math.log(max(abs(0.5 * (-x1 - 7) - math.tanh(-x2)), 5e-6)) + 6
    f2 = math.log(max(abs(0.5 * (-x1 + 3) + math.tanh(-x2) + 2), 5e-6)) + 6
    q1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    q2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    up, down = max(math.tanh(0.5 * x2), 0), max(math.tanh(-0.5 * x2), 0)
    return 0.1 * (f1 * up + q1 * down + 20), f2 * up + q2 * down + 20


def random_points(problem: toy.Problem, n: int) -> Tensor:
    low, high = torch.tensor(problem.view.low), torch.tensor(problem.view.high)
    generator = torch.Generator().manual_seed(0)
    return (low + (high - low) * torch.rand(n, 2, generator=generator)).double()


def grid(problem: toy.Problem, n: int) -> Tensor:
    axes = [
        torch.linspace(a, b, n, dtype=torch.float64)
        for a, b in zip(problem.view.low, problem.view.high, strict=True)
    ]
    return problem.evaluate(torch.cartesian_prod(*axes))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=list(PROBLEMS))
class TestProblem:
    def test_losses_are_the_published_ones(self, problem: toy.Problem) -> None:
        x = torch.cat([random_points(problem, 300), torch.tensor(problem.starts).double()])
        expected = torch.tensor([by_hand(problem.name, *p) for p in x.tolist()]).double()
        torch.testing.assert_close(problem.evaluate(x), expected, rtol=1e-6, atol=1e-7)

    def test_losses_are_positive(self, problem: toy.Problem) -> None:
        assert grid(problem, 801).min() >= 0

    def test_derivatives_agree_with_finite_differences(self, problem: toy.Problem) -> None:
        for x in random_points(problem, 5):
            x.requires_grad_()
            assert torch.autograd.gradcheck(problem.evaluate, x)
            assert torch.autograd.gradgradcheck(problem.evaluate, x)

    def test_sharpness_is_the_curvature_of_the_mean(self, problem: toy.Problem) -> None:
        h = 1e-4
        turns = torch.linspace(0, math.pi, 721, dtype=torch.float64)
        ways = h * torch.stack([turns.cos(), turns.sin()], -1)

        def mean(x: Tensor) -> Tensor:
            return problem.evaluate(x).mean(-1)

        for x in random_points(problem, 5):
            around = (mean(x + ways) - 2 * mean(x) + mean(x - ways)) / h**2
            assert problem.sharpness(x).item() == pytest.approx(
                around.max().item(), rel=1e-3, abs=1e-4
            )

    def test_no_point_dominates_the_pareto_front(self, problem: toy.Problem) -> None:
        front = problem.pareto_front(101)
        assert front is not None
        losses = grid(problem, 1201)
        losses = losses[losses[:, 0].argsort()]
        best = losses[:, 1].cummin(0).values
        rank = torch.searchsorted(losses[:, 0].contiguous(), front[:, 0].contiguous())
        known = rank > 0
        assert (best[rank[known] - 1] >= front[known, 1] - 1e-9).all()

    def test_non_dominated_points_are_on_the_pareto_front(self, problem: toy.Problem) -> None:
        losses = grid(problem, 1201)
        losses = losses[losses[:, 0].argsort()]
        before = losses[:, 1].cummin(0).values[:-1]
        efficient = losses[1:][losses[1:, 1] < before]
        assert len(efficient) > 50
        distance = problem.distance(efficient[:: len(efficient) // 200 + 1])
        assert distance is not None
        assert distance.max() < 0.02

    def test_distance_is_to_the_closest_point_of_the_front(self, problem: toy.Problem) -> None:
        front = problem.pareto_front(20001)
        losses = problem.evaluate(random_points(problem, 50))
        distance = problem.distance(losses)
        assert front is not None
        assert distance is not None
        torch.testing.assert_close(
            distance, torch.cdist(losses, front).amin(1), atol=1e-3, rtol=1e-3
        )
        assert problem.distance(front[::100]).max() < 1e-5  # type: ignore[union-attr]


# Every method with every preset, on one of the problems; every other on the other one.
ON_A_PROBLEM = in_pairs(aggregation.available(), PRESETS, PROBLEMS)


@pytest.mark.parametrize("method", aggregation.available())
def test_every_method_with_every_preset(method: str) -> None:
    if (fewest := aggregation.describe(method).min_tasks) > 2:
        with pytest.raises(RunError, match=f"at least {fewest} tasks"):
            toy.setting(next(iter(PROBLEMS)), method=method)
        return
    by_rises = aggregation.describe(method).needs == "sharpness"
    for _, preset, problem in (case for case in ON_A_PROBLEM if case[0] == method):
        if by_rises and preset != "gsam":
            continue
        needed = {"weights": [0.3, 0.7]} if method == "constant" else {}
        setting = toy.setting(
            problem,
            method=method,
            sharpness=preset,
            start=(-5, 0.5),  # where gradients are not so small that TorchJD treats them as zero
            steps=2,
            method_options=needed,
            sharpness_options={"rho_own": 0.0} if by_rises else {},
        )
        trajectory = toy.run(setting)
        assert tuple(trajectory.points[0]) == setting.start
        assert np.isfinite(trajectory.points).all()
        assert np.isfinite(trajectory.losses).all()
        moved = np.abs(np.diff(trajectory.points, axis=0))
        assert moved.max() > 0
        assert moved[0].max() <= setting.lr * (1 + 1e-6)  # the bound of Adam's first step


def test_run_is_adam_on_the_mean() -> None:
    """Adam is written out, and the gradients are derived by hand."""
    x, m, v = np.array(VALLEY.starts[0]), np.zeros(2), np.zeros(2)
    expected = [x]
    for t in range(1, 41):
        far = 1 + 0.1 * (x**4).sum()
        deep = math.exp(-2 * (x[0] + 4) ** 2 - 2 * x[1] ** 2)
        g = 0.4 * x**3 / far**2 + deep * 4 * (x - np.array([-4, 0]))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        x = np.clip(x, [-6, -3], [6, 3])
        expected.append(x)
    points = toy.run(toy.setting("valley", steps=40)).points
    np.testing.assert_allclose(points, expected, rtol=1e-9)


def test_figure_1_with_fewer_and_larger_steps() -> None:
    """The two valleys of Figure 1."""
    sharp = toy.run(toy.setting("valley", lr=0.05, steps=150))
    assert sharp.points[-1] == pytest.approx([-3.99, 0.0], abs=0.02)
    assert sharp.sharpness == pytest.approx(2.0, abs=0.05)
    flat = toy.run(toy.setting("valley", sharpness="gsam", rho=1.5, lr=0.05, steps=300))
    assert flat.points[-1] == pytest.approx([-2.49, 0.0], abs=0.1)
    assert flat.sharpness < 0.1
    for trajectory in (sharp, flat):
        assert trajectory.distance == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_figure_1() -> None:
    """The recorded setting: 5,000 steps of Adam with learning rate 0.01."""
    sharp = toy.run(toy.setting("valley"))
    assert sharp.points[-1] == pytest.approx([-3.99, 0.0], abs=0.005)
    assert sharp.sharpness == pytest.approx(2.0, abs=0.02)
    flat = toy.run(toy.setting("valley", sharpness="gsam", rho=1.5))
    assert flat.points[-1] == pytest.approx([-2.49, 0.0], abs=0.005)
    assert flat.sharpness == pytest.approx(0.02, abs=0.005)


def test_the_sum_converges_to_the_point_of_its_weights() -> None:
    """On FRONT, the gradients with weights 0.1 and 1 cancel at x1 = 7 (2 · 0.1 / 1.1 - 1)."""
    end = toy.run(toy.setting("front", start=(-5, -8), lr=0.05, steps=150)).points[-1]
    assert end[0] == pytest.approx(-63 / 11, abs=0.02)


@pytest.mark.slow
def test_from_above_the_sum_stays_in_a_valley_that_balanced_methods_leave() -> None:
    ends = {
        method: toy.run(toy.setting("front", method=method, start=(9, 9)))
        for method in ("ls", "mgda", "nash-mtl")
    }
    distance = {method: t.distance or 0.0 for method, t in ends.items()}
    assert distance["mgda"] < 0.1
    assert distance["nash-mtl"] < 0.1
    assert distance["ls"] > 1


def test_a_trajectory_depends_on_its_setting_only_and_restores_the_generator() -> None:
    setting = toy.setting("front", method="graddrop", sharpness="samo", steps=5, seed=3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = toy.run(setting)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.testing.assert_array_equal(toy.run(setting).points, first.points)
    other = toy.run(toy.setting("front", method="graddrop", sharpness="samo", steps=5, seed=4))
    assert not np.array_equal(other.points, first.points)


def test_a_custom_problem_is_confined_to_its_box() -> None:
    bowl = toy.Problem(
        name="bowl",
        title="the distance to two points outside of the box",
        evaluate=lambda x: torch.stack(
            [(x - 3).square().sum(-1), (x + x.new_tensor([-3, 3])).square().sum(-1)], -1
        ),
        starts=((0.0, 0.0),),
        view=toy.Box((-1, -1), (4, 4)),
        lr=0.1,
        steps=50,
        rho=0.1,
        box=toy.Box((-1, -1), (1, 1)),
    )
    trajectory = toy.run(toy.setting(bowl, method="upgrad"))
    assert trajectory.points[-1] == pytest.approx([1, 0], abs=0.02)
    assert trajectory.points.max() <= 1
    assert trajectory.distance is None


def test_a_task_may_be_independent_of_x() -> None:
    def evaluate(x: Tensor) -> Tensor:
        return torch.stack([x.square().sum(-1), 1 + 0 * x[..., 0]], -1)

    problem = toy.Problem("one", "one loss", evaluate, ((1.0, 0.5),), VALLEY.view, 0.1, 40, 0.1)
    end = toy.run(toy.setting(problem, sharpness="samo")).points[-1]
    assert np.abs(end).max() < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "vally"}, "did you mean 'valley'"),
        ({"method": "nash"}, "no method 'nash'"),
        ({"sharpness": "smao"}, "did you mean 'samo'"),
        ({"rho": 0.1}, "no meaning for sharpness 'erm'"),
        ({"sharpness": "gsam", "rho": -1.0}, "rho"),
        ({"start": (7, 0)}, "must be within"),
        ({"start": (1, 2, 3)}, "two numbers"),
        ({"start": (math.nan, 0)}, "two numbers"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.inf}, "lr must be positive"),
        ({"seed": -1}, "seed must not be negative"),
        ({"method_options": {"c": 1}}, "unknown option 'c'"),
        ({"sharpness": "samo", "sharpness_options": {"alhpa": 1}}, "did you mean 'alpha'"),
    ],
)
def test_invalid_settings_raise_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        toy.setting(options.pop("problem", VALLEY), **options)


def test_trajectories_are_saved_and_loaded(tmp_path: Path) -> None:
    setting = toy.setting("front", sharpness="gsam", steps=4)
    trajectory = toy.run(setting)
    path = tmp_path / "x.npz"
    toy.save(trajectory, path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    read = toy.load(path, setting)
    np.testing.assert_array_equal(read.points, trajectory.points)
    np.testing.assert_array_equal(read.losses, trajectory.losses)
    with pytest.raises(RunError, match=r"rho \(0.1 saved, 0.2 requested\)"):
        toy.load(path, toy.setting("front", sharpness="gsam", steps=4, rho=0.2))
    damaged = {"nothing": b"", "half": path.read_bytes()[:200], "text": b"points, losses"}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match="cannot be read"):
            toy.load(tmp_path / name, setting)
    assert FRONT.name in str(setting)
