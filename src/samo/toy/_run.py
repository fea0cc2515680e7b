"""Runs a descent: a training loop with a point instead of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Adam

from .. import Engine, aggregation
from ..training import perturbation
from ._problem import Point
from ._setting import Setting
from ._trajectory import Trajectory


def run(setting: Setting, *, watch: Callable[[int], None] | None = None) -> Trajectory:
    """Runs a descent by `samo.Engine` and Adam.

    Each step evaluates the whole problem, so it counts as an epoch for methods that depend on
    epochs. Trainable parameters of a method are updated by the same Adam.

    Args:
        setting: The setting.
        watch: Called with the number of finished steps.

    Returns:
        The trajectory, which depends on the setting alone.

    Raises:
        ValueError: If the method does not support the losses; some require positive ones.
        NonFiniteError: If a loss or a gradient is not finite.

    Example:
        >>> from samo import toy
        >>> trajectory = toy.run(toy.setting("valley", method="mgda", steps=10))
        >>> trajectory.points.shape, bool((trajectory.losses[-1] < trajectory.losses[0]).all())
        ((11, 2), True)
    """
    problem = setting.problem
    point = Point(problem, setting.start)
    perturb, decompose = perturbation(setting.sharpness, setting.rho, setting.sharpness_options)
    with _seeded(setting.seed):
        options: Any = setting.method_options
        engine = Engine(
            point,
            problem.tasks,
            aggregator=aggregation.create(setting.method, len(problem.tasks), **options),
            perturbation=perturb,
            decompose=decompose,
            shared=point,
            seed=setting.seed,
        )
        learnt = [point.x, *engine.aggregator.parameters()]
        optimizer = Adam(learnt, lr=setting.lr)
        points = torch.empty(setting.steps + 1, 2, dtype=torch.float64)
        points[0] = point.x.detach()
        for i in range(1, setting.steps + 1):
            optimizer.zero_grad()
            engine.backward(point)
            optimizer.step()
            point.confine()
            if engine.needs_losses_after_step:
                with torch.no_grad():
                    engine.optimizer_stepped(point(problem.tasks))
            engine.epoch_ended()
            points[i] = point.x.detach()
            if watch:
                watch(i)
    return Trajectory(setting, points.numpy(), problem.evaluate(points).numpy())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the global generator, which some methods draw from, and restores it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
