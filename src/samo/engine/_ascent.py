"""The ascent: the points at which the losses are evaluated a second time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from samo.distributed import Fill
from samo.model import Held, rademacher_
from samo.perturbations import Noise
from samo.tensors import Vector, wide

from ._natural import NaturalPoint
from ._point import displaced
from ._rounding import warn_of_rounding

T = TypeVar("T")


class Ascent:
    """The perturbations ε and η_i of a group of tasks with a common perturbed point.

    It implements `Probe`, the interface that estimators use.

    Args:
        natural: The natural pass.
        group: The tasks of the group.
        last: Whether no other group will need the natural graph.

    Attributes:
        group: The tasks of the group.
        tasks: The tasks of the group that are perturbed on this rank.
    """

    def __init__(self, natural: NaturalPoint, group: Sequence[str], *, last: bool = False) -> None:
        self.group = list(group)
        self.tasks = [task for task in group if task in natural.agreed.means]
        self._natural = natural
        self._last = last
        self._left: Held | None = None

    def displaced(self, compute: Callable[[], T]) -> T:
        """Calls a function with the parameters at θ + ε and φ_i + η_i.

        The second time, parameters that the model writes itself are as `replay` left them:
        its graph is differentiated there.

        Args:
            compute: The function.

        Returns:
            What it returns.
        """
        if not self.tasks:
            return compute()
        natural = self._natural
        direction, factor = self._epsilon
        own = [(natural.own_points[t], natural.etas[t]) for t in self.tasks if t in natural.etas]
        away = natural.batch.away(natural.displaced)
        at = displaced(natural.journal, ([(natural.point, direction)], factor), (own, 1.0))
        with away, at:
            if self._left is not None:
                self._left.put_back()
            elif (rho := natural.perturbation.rho) not in natural.rounded:
                natural.rounded.add(rho)
                warn_of_rounding(natural.point, direction, factor, rho)
            return compute()

    def replay(self) -> dict[str, Tensor]:
        """Returns the losses of the group at the displaced point."""
        batch = self._natural.batch
        losses = batch.replay(self.group)
        if self._natural.returns:
            self._left = batch.left()
        return losses

    def release(self) -> None:
        """Frees ε, which belongs to this group alone if there is an estimator."""
        if self.tasks and self._natural.estimator is not None:
            direction, _ = self.__dict__.pop("_epsilon")
            self._natural.workspace.give("direction", direction)

    @cached_property
    def _epsilon(self) -> tuple[Vector, float]:
        """Returns (direction, factor) with ε = factor · direction."""
        natural = self._natural
        if natural.estimator is None:
            direction = natural.mean
        else:
            direction = natural.estimator.estimate(self)
            if natural.perturbation.alpha > 0:
                direction.lerp_(natural.mean, natural.perturbation.alpha)
        values = natural.point.values
        norm, factor = natural.perturbation.to_radius_(
            natural.masked(direction), values, natural.perturbation.rho
        )
        natural.guard.check(self.tasks, "ascent direction", norm)
        return direction, factor

    @property
    def task(self) -> str:
        """The first task's name."""
        return self.tasks[0]

    @cached_property
    def loss(self) -> Tensor:
        """The mean of the tasks' natural losses, without graph."""
        return self._mean_of(self._natural.agreed.means)

    @property
    def names(self) -> list[str]:
        """The names of the perturbed shared parameters."""
        return self._natural.names

    @property
    def mean(self) -> Vector:
        """g_0, the gradient of the mean loss."""
        return self._natural.mean

    @property
    def mean_norms(self) -> list[Tensor]:
        """The norms of the tensors of g_0."""
        return self._natural.mean_norms

    def draw(self, noise: Noise) -> Vector:
        """Returns a random vector of the perturbed coordinates."""
        natural, vector = self._natural, self._natural.fresh()
        world = natural.world
        world.placement.fill(vector, natural.shared, world.streams, _FILL[noise])
        return natural.masked(vector)

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        """Returns the mean of the tasks' losses at θ + step · direction."""
        natural, losses = self._natural, dict[str, Tensor]()
        away = natural.batch.away(natural.displaced)
        with away, displaced(natural.journal, ([(natural.point, direction)], step)):
            # Copies, since a loss may be a parameter.
            found = natural.batch.replay(self.tasks, graphs=False)
            losses = {task: loss.detach().clone() for task, loss in found.items()}
        means = natural.world.ranks.means(self.tasks, losses, natural.agreed.shares)
        loss = self._mean_of(means)
        natural.guard.check(self.tasks, "loss at a probing point", loss)
        return loss

    def gradient(self, tensors: Sequence[int] | None = None) -> Vector:
        """Returns the gradient of the mean of the tasks' losses at the natural point."""
        return self._natural.gradient(self.tasks, tensors, retain=not self._last)

    def from_the_loss(self) -> list[int]:
        """Returns the indices of the tensors, nearest to the losses first."""
        return self._natural.from_the_loss

    def _mean_of(self, losses: Mapping[str, Tensor]) -> Tensor:
        first = losses[self.task]
        total = first.to(wide(first.dtype))
        for task in self.tasks[1:]:
            total = total + losses[task].to(total)
        return total / len(self.tasks) if len(self.tasks) > 1 else total


def ascents(natural: NaturalPoint, tasks: Sequence[str]) -> list[Ascent]:
    """Returns the ascents of a batch: one for all tasks if there is one ε, else one per group."""
    estimator = natural.estimator
    if estimator is None:
        groups = [list(tasks)]
    elif estimator.groups_tasks:
        groups = estimator.group({task: Ascent(natural, [task]) for task in tasks})
    else:
        groups = [[task] for task in tasks]
    here = [group for group in groups if not natural.agreed.means.keys().isdisjoint(group)]
    return [Ascent(natural, group, last=group in here[-1:]) for group in groups]


_FILL: dict[Noise, Fill] = {
    "gaussian": lambda flat, generator: flat.normal_(generator=generator),
    "rademacher": rademacher_,
}
