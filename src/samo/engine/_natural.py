"""The natural point of a batch, and the directions computed there: g_0 and η_i."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.distributed import Agreement, World
from samo.model import distances
from samo.perturbations import LocalGradient, Perturbation
from samo.tensors import Vector, cut

from ._batch import Batch
from ._finite import Guard
from ._point import Point, displaced, point_of, split
from ._setting import Setting
from ._task_gradients import AtParameters, differentiate

# Farther from a loss than any parameter that it reaches.
_FAR = 1 << 40


def ahead(setting: Setting) -> AbstractContextManager[None]:
    """Returns a context with the parameters where a step evaluates the losses.

    With a running mean v of past gradients, this is w - ρ v/‖v‖; else the parameters w themselves.
    All that a step computes until it writes is computed there.
    """
    perturbation, mean, workspace = setting.perturbation, setting.mean, setting.workspace
    if perturbation is None or mean is None or perturbation.rho == 0:
        return nullcontext()
    known = {
        name: parameter
        for name, parameter in setting.partition.trainable().items()
        if name in mean.values
    }
    parameters, masks = perturbation.selected(known.items())
    value_of = {id(parameter): mean.values[name] for name, parameter in known.items()}
    layout = workspace.layout("ahead", parameters)
    direction = layout.copy_of([value_of[id(parameter)] for parameter in parameters])
    direction.hadamard_(masks)
    point = point_of(parameters, workspace.vector("values ahead", layout))
    _, factor = perturbation.to_radius_(direction, point.values, perturbation.rho)
    torch.clear_autocast_cache()  # it may have copies of the parameters
    return displaced(setting.journal, ([(point, direction)], -factor))


class NaturalPoint:
    """The natural point of one batch, and the gradients of its losses there.

    Args:
        setting: The engine's setting.
        perturbation: The perturbation.
        batch: The batch, evaluated.
        guard: The loss scale and the finiteness checks.

    Attributes:
        perturbation: The perturbation.
        batch: The batch.
        guard: The loss scale and the finiteness checks.
        world: The processes that perturb along one gradient.
        agreed: The tasks of these processes, with their losses.
        workspace: The storage.
        journal: The journal of the step.
        returns: Whether the graph of a replay is differentiated at its point a second time.
        rounded: The radii for which it is known whether rounding takes a part of ε away.
        shared: The shared parameters that are perturbed.
        names: Their names.
        point: The shared parameters' natural point.
        own_points: The natural points of the tasks' own parameters.
        displaced: The parameters that are perturbed for any task.
        etas: η_i by task, once computed.
        estimator: The estimator of the local gradients; None if there is one ε for all tasks.
    """

    def __init__(
        self, setting: Setting, perturbation: Perturbation, batch: Batch, guard: Guard
    ) -> None:
        partition = setting.partition
        self.perturbation = perturbation
        self.batch, self.guard = batch, guard
        self.world: World = setting.world
        self.agreed: Agreement = batch.agreed
        if not self.world.sync_perturbation:
            self.world = self.world.alone(setting.traced.model)
            self.agreed = self.world.ranks.agree(batch.losses, batch.agreed.sizes, news=False)
        self.workspace, self.journal = setting.workspace, setting.journal
        self.rounded = setting.rounded
        self.returns = setting.level == "representation"
        self._partition = partition
        self.shared, self._masks = self._select(partition.shared, perturbation.rho)
        self.names = [partition.names[id(parameter)] for parameter in self.shared]
        self.point = self._point_of("shared", self.shared)
        radius = perturbation.own_radius
        self._own = {task: self._select(own, radius) for task, own in partition.own.items()}
        counts = [len(own) for own, _ in self._own.values()]
        at = self._point_of("own", [p for own, _ in self._own.values() for p in own])
        etas = self.workspace.vector("etas", at.values.layout)
        self.own_points: dict[str, Point] = dict(zip(self._own, split(at, counts), strict=True))
        self._storage = dict(zip(self._own, etas.layout.sections(etas, counts), strict=True))
        self.displaced = [*self.shared, *(p for own, _ in self._own.values() for p in own)]
        self.etas: dict[str, Vector] = {}
        self._mean: Vector | None = None
        self._rows: dict[str, tuple[list[Tensor], float]] = {}
        self.estimator: LocalGradient | None = perturbation.estimator if self.shared else None
        weights = setting.combiner.ascent_weights
        self._ascent_weights = (
            None if weights is None else dict(zip(setting.tasks, weights, strict=True))
        )

    @property
    def tasks(self) -> list[str]:
        """The tasks that are perturbed here, in order."""
        return list(self.agreed.means)

    @property
    def needs_rows(self) -> bool:
        """Whether the estimator asks for every task's whole gradient, and nothing else."""
        estimator = self.estimator
        if estimator is None or not estimator.exact:
            return False
        return not (estimator.groups_tasks or estimator.uses_mean)

    def use_rows(self, natural: AtParameters, shares: Mapping[str, float]) -> None:
        """Computes g_0 and η_i from natural task gradients, which have the factors ``shares``."""
        places = {id(parameter): i for i, parameter in enumerate(self._partition.shared)}
        at = [places[id(parameter)] for parameter in self.shared]
        mean = self.workspace.vector("mean", self.point.values.layout).copy_([None] * len(at))
        for task in self.tasks:
            row, factor = natural.row(task).tensors, 1 / shares[task]
            self._rows[task] = [row[i] for i in at], factor
            mean.add_(self._rows[task][0], factor / len(self.tasks))
            if task in natural.own:
                parts = zip(self._partition.own[task], natural.own[task].tensors, strict=True)
                own = {id(parameter): part for parameter, part in parts}
                self._storage[task].copy_([own[id(parameter)] for parameter in self._own[task][0]])
                self._finish_eta(task)
        self._set_mean(mean)

    def differentiate_mean(self) -> None:
        """Computes g_0 and η_i by one backward pass from the mean of the natural losses.

        For a method with weights in the ascent direction, it is the weighted mean. With α = 0 and
        an exact estimator that does not use g_0, the pass is skipped.
        """
        exact = self.estimator is not None and self.estimator.exact
        if exact and self.perturbation.alpha == 0 and not self._uses_mean:
            return
        mean = self.workspace.vector("mean", self.point.values.layout)
        share = 1 / max(1, len(self.tasks))
        weights = self._ascent_weights
        factors = {t: share if weights is None else share * weights[t] for t in self.tasks}
        self._differentiate(factors, mean, range(len(self.shared)), retain=exact)
        if self.estimator is None:
            self.batch.hand_over()  # its graph makes room for the next one
        self._set_mean(mean)

    def gradient(
        self, tasks: Sequence[str], chosen: Sequence[int] | None, *, retain: bool
    ) -> Vector:
        """Returns the gradient of the mean loss of tasks with respect to the ``chosen`` tensors."""
        numbers = range(len(self.shared)) if chosen is None else chosen
        gradient, weight = self.fresh(), 1 / len(tasks)
        if not self._rows:
            factors = dict.fromkeys(tasks, weight)
            self._differentiate(factors, gradient, numbers, retain=retain)
            return gradient
        for number, task in enumerate(tasks):
            row, factor = self._rows[task]
            parts = [row[i] if i in numbers else None for i in range(len(row))]
            if number == 0:
                gradient.copy_(parts).mul_(factor * weight)
            else:
                gradient.add_(parts, factor * weight)
        return gradient

    def fresh(self) -> Vector:
        """Returns an unused vector of the perturbed shared parameters."""
        return self.workspace.take("direction", self.point.values.layout)

    def masked(self, vector: Vector) -> Vector:
        """Sets the coordinates that are not perturbed to zero."""
        return vector if self.perturbation.where is None else vector.hadamard_(self._masks)

    @property
    def mean(self) -> Vector:
        """g_0, the gradient of the mean loss."""
        if self._mean is None:
            raise RuntimeError(
                "There is no mean gradient: with alpha=0, none is computed for an exact estimator "
                "whose uses_mean is False."
            )
        return self._mean

    @cached_property
    def mean_norms(self) -> list[Tensor]:
        """The norms of the tensors of g_0."""
        return self.mean.norms()

    @cached_property
    def from_the_loss(self) -> list[int]:
        """The indices of the shared parameters, nearest to the losses first."""
        found = distances(self.batch.losses.values()).items()
        far = {i: d for leaf, d in found for i in self.world.placement.behind({leaf})}
        # The smallest distance over all ranks: a rank without a task's labels has no graph of it.
        near = torch.tensor([-far.get(id(parameter), _FAR) for parameter in self.shared])
        numbers = self.world.ranks.largest(near).tolist()
        return sorted(range(len(numbers)), key=lambda i: (-numbers[i], -i))

    @property
    def _uses_mean(self) -> bool:
        return self.estimator is not None and self.estimator.uses_mean

    def _set_mean(self, mean: Vector) -> None:
        self._mean = self.masked(mean)
        self.guard.check(self.tasks, "natural gradient", mean.norm())

    def _differentiate(
        self,
        factors: Mapping[str, Tensor | float],
        shared: Vector,
        chosen: Sequence[int],
        *,
        retain: bool,
    ) -> None:
        """Fills ``shared`` with ∇_θ of a weighted sum of losses, and computes missing η_i."""
        losses, guard = self.batch.losses, self.guard
        here = [task for task in factors if task in losses]
        own = {task: self._own[task][0] for task in factors if task not in self.etas}
        gradients = differentiate(
            [losses[task] for task in here],
            [*(self.shared[i] for i in chosen), *(p for ps in own.values() for p in ps)],
            [guard.seed(losses[t], factors[t] * self.agreed.shares[t]) for t in here],
            self.world.placement,
            self._partition,
            retain=retain,
        )
        of_shared, *of_own = cut(gradients, [len(chosen), *map(len, own.values())])
        found = dict(zip(chosen, of_shared, strict=True))
        shared.copy_([found.get(i) for i in range(len(self.shared))])
        for task, part in zip(own, of_own, strict=True):
            self._storage[task].copy_(part)
        small = [flat for task in own for flat in self._storage[task].flats]
        self.world.placement.reduce_(shared.flats, small)
        guard.unscale_(shared)
        for task in own:
            self._finish_eta(task)

    def _finish_eta(self, task: str) -> None:
        """Turns a positive multiple of ∇_φi l_i into η_i, in place."""
        parameters, masks = self._own[task]
        if not parameters:
            return
        eta = self._storage[task].hadamard_(masks)
        norm, factor = self.perturbation.to_radius_(
            eta, self.own_points[task].values, self.perturbation.own_radius
        )
        self.etas[task] = eta.mul_(factor)
        self.guard.check([task], "natural gradient", norm)

    def _point_of(self, whose: str, parameters: Sequence[Parameter]) -> Point:
        layout = self.workspace.layout(f"{whose}, perturbed", parameters)
        return point_of(parameters, self.workspace.vector(f"values of {whose}", layout))

    def _select(
        self, parameters: Sequence[Parameter], radius: float
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        """Returns the parameters that are perturbed by a radius, and their masks."""
        if radius == 0:
            return [], []
        names = self._partition.names
        return self.perturbation.selected((names[id(p)], p) for p in parameters)
