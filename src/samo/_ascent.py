"""The ascent: where each task's loss is evaluated a second time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Parameter

from ._gradients import Scale, TaskGradients, gradients_of
from ._graph import distances
from ._ledger import Ledger
from ._local import Grouping, LocalGradient
from ._local._base import Noise
from ._partition import Partition
from ._perturbation import Perturbation
from ._random import Streams
from ._trace import Point, displaced
from ._vector import Vector, wide
from ._workspace import Workspace

Evaluate = Callable[[Sequence[str]], Mapping[str, Tensor]]


class Ascent:
    """The perturbations ε_i and η_i of one micro-batch.

    Args:
        perturbation: The radius, and what to ascend along.
        partition: The shared and own parameters.
        losses: The natural losses by task, with their graphs.
        evaluate: Evaluates some tasks' losses with the parameters as they are.
        streams: The engine's generators.
        scale: The factor on losses before backward passes.
        ledger: Where to enter what must be finite.
        workspace: The storage.
    """

    def __init__(
        self,
        perturbation: Perturbation,
        partition: Partition,
        losses: Mapping[str, Tensor],
        evaluate: Evaluate,
        streams: Streams,
        scale: Scale,
        ledger: Ledger,
        workspace: Workspace,
    ) -> None:
        self._perturbation = perturbation
        self._partition = partition
        self._losses = losses
        self._evaluate = evaluate
        self._streams = streams
        self._scale = scale
        self._ledger = ledger
        self._workspace = workspace
        self.shared, self._masks = self._select(partition.shared)
        self._point = self._point_of("", self.shared)
        self._own = {task: self._select(partition.own[task]) for task in losses}
        self._own_points = {task: self._point_of(task, own) for task, (own, _) in self._own.items()}
        self._etas: dict[str, Vector] = {}
        self._mean: Vector | None = None
        self._rows: dict[str, list[Tensor]] = {}
        self.estimator: LocalGradient | None = perturbation.estimator if self.shared else None

    @cached_property
    def groups(self) -> list[list[str]]:
        """The tasks that are evaluated at one point: all where there is one ε, else each alone.

        An estimator may divide them otherwise, by their gradients; so this is to be asked for when
        the directions were found.
        """
        tasks = list(self._losses)
        if isinstance(self.estimator, Grouping):
            return self.estimator.group({task: _Probe(self, [task]) for task in tasks})
        return [tasks] if self.estimator is None else [[task] for task in tasks]

    @property
    def exact(self) -> bool:
        """Whether the estimator asks for gradients at the natural point."""
        return self.estimator is not None and self.estimator.exact

    @property
    def by_task(self) -> bool:
        """Whether what it asks for is every task's whole gradient, and nothing else."""
        grouped = isinstance(self.estimator, Grouping)
        return self.exact and not grouped and not self._uses_mean

    def from_gradients(self, natural: TaskGradients) -> None:
        """Finds the directions from the gradients of the natural losses, where these were made."""
        places = {id(parameter): i for i, parameter in enumerate(self._partition.shared)}
        at = [places[id(parameter)] for parameter in self.shared]
        mean = self._direction("mean").copy_([None] * len(at))
        for task in self._losses:
            row = natural.row(task).tensors
            self._rows[task] = [row[i] for i in at]
            mean.add_(self._rows[task], 1 / len(self._losses))
            if task in natural.own:
                parts = zip(self._partition.own[task], natural.own[task].tensors, strict=True)
                own = {id(parameter): part for parameter, part in parts}
                self._set_eta(task, [own[id(parameter)] for parameter in self._own[task][0]])
        self._set_mean(mean)

    def from_losses(self) -> None:
        """Finds the directions by one backward pass from the mean of the natural losses.

        With α = 0 and an exact estimator that does not use it, nothing depends on the mean, and the
        pass is left out.
        """
        if self.exact and not self._uses_mean and self._perturbation.alpha == 0:
            return
        losses = list(self._losses.values())
        own = [parameter for parameters, _ in self._own.values() for parameter in parameters]
        gradients = gradients_of(
            losses,
            [*self.shared, *own],
            [self._scale.seed(loss, 1 / len(losses)) for loss in losses],
            retain=self.exact,
            partition=self._partition,
        )
        at = len(self.shared)
        self._set_mean(self._scale.undo_(self._direction("mean").copy_(gradients[:at])))
        for task, (parameters, _) in self._own.items():
            self._set_eta(task, gradients[at : at + len(parameters)])
            at += len(parameters)

    @cached_property
    def _from_the_loss(self) -> list[int]:
        """The shared parameters' numbers, the nearest to the losses first."""
        far = distances(self._losses.values())
        numbers = range(len(self.shared))
        return sorted(numbers, key=lambda i: (far.get(id(self.shared[i]), math.inf), -i))

    @property
    def _uses_mean(self) -> bool:
        return self.estimator is not None and self.estimator.uses_mean

    @contextmanager
    def displaced(self, group: Sequence[str]) -> Iterator[None]:
        """Holds the parameters at θ + ε and φ_i + η_i for the tasks of a group."""
        epsilon = self._epsilon(group)
        own = [(self._own_points[t], self._etas[t]) for t in group if t in self._etas]
        with displaced([(self._point, epsilon), *own]):
            yield
        if self.estimator is not None:
            self._workspace.give("direction", epsilon)

    def fresh(self) -> Vector:
        """A vector of the perturbed shared parameters that nobody else uses."""
        return self._workspace.take("direction", self._point.values.layout)

    def _epsilon(self, group: Sequence[str]) -> Vector:
        if self.estimator is None:
            assert self._mean is not None
            direction = self._mean
        else:
            probe = _Probe(self, group, last=group is self.groups[-1])
            direction = self.estimator.estimate(probe)
            alpha = self._perturbation.alpha
            if alpha > 0:
                assert self._mean is not None
                direction.lerp_(self._mean, alpha)
        norm = self._perturbation.to_radius_(self._masked(direction), self._point.values)
        self._ledger.note(group, "ascent direction", norm)
        return direction

    def _set_mean(self, mean: Vector) -> None:
        self._mean = self._masked(mean)
        self._ledger.note(list(self._losses), "natural gradient", mean.norm())

    def _set_eta(self, task: str, gradients: Sequence[Tensor | None]) -> None:
        """η_i from a positive multiple of ∇_φi l_i."""
        parameters, masks = self._own[task]
        if not parameters:
            return
        point = self._own_points[task]
        eta = self._workspace.vector(f"eta of {task}", point.values.layout)
        eta.copy_(gradients).hadamard_(masks)
        norm = self._perturbation.to_radius_(eta, point.values)
        self._ledger.note([task], "natural gradient", norm)
        self._etas[task] = eta

    def _point_of(self, whose: str, parameters: Sequence[Parameter]) -> Point:
        layout = self._workspace.layout(f"point of {whose}", parameters)
        return Point(parameters, self._workspace.vector(f"values of {whose}", layout))

    def _direction(self, use: str) -> Vector:
        return self._workspace.vector(use, self._point.values.layout)

    def _select(
        self, parameters: Sequence[Parameter]
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        name = self._partition.name
        return self._perturbation.selected((name(p), p) for p in parameters)

    def _masked(self, vector: Vector) -> Vector:
        return vector if self._perturbation.where is None else vector.hadamard_(self._masks)


class _Probe:
    """The `Probe` of one task, or of several that are perturbed together.

    Args:
        ascent: The ascent.
        tasks: The tasks.
        last: Whether no other will need the natural graph.
    """

    def __init__(self, ascent: Ascent, tasks: Sequence[str], *, last: bool = False) -> None:
        self._ascent = ascent
        self._tasks = tasks
        self._last = last
        self.task = tasks[0]
        self.loss = self._mean_of(ascent._losses)

    @property
    def names(self) -> list[str]:
        return [self._ascent._partition.name(p) for p in self._ascent.shared]

    @property
    def mean(self) -> Vector:
        if self._ascent._mean is None:
            raise RuntimeError(
                "There is no mean gradient to ask for: with alpha=0, none is made for an exact "
                "estimator whose uses_mean is False."
            )
        return self._ascent._mean

    def draw(self, noise: Noise) -> Vector:
        vector = self._ascent.fresh()
        for flat in vector.flats:
            generator = self._ascent._streams.on(flat.device)
            if noise == "gaussian":
                flat.normal_(generator=generator)
            else:
                flat.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        return self._ascent._masked(vector)

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        with displaced([(self._ascent._point, direction)], step), torch.no_grad():
            loss = self._mean_of(self._ascent._evaluate(self._tasks))
        self._ascent._ledger.note(self._tasks, "loss at a probing point", loss)
        return loss

    def gradient(self, tensors: Sequence[int] | None = None) -> Vector:
        ascent = self._ascent
        chosen = range(len(ascent.shared)) if tensors is None else tensors
        if ascent._rows:
            total = ascent.fresh().copy_([None] * len(ascent.shared))
            for task in self._tasks:
                row = ascent._rows[task]
                parts = [row[i] if i in chosen else None for i in range(len(row))]
                total.add_(parts, 1 / len(self._tasks))
            return total
        own = {t: ascent._own[t][0] for t in self._tasks if t not in ascent._etas}
        losses = [ascent._losses[task] for task in self._tasks]
        gradients = gradients_of(
            losses,
            [*(ascent.shared[i] for i in chosen), *(p for ps in own.values() for p in ps)],
            [ascent._scale.seed(loss, 1 / len(losses)) for loss in losses],
            retain=not self._last,
            partition=ascent._partition,
        )
        at = len(chosen)
        found = dict(zip(chosen, gradients, strict=False))
        for task, parameters in own.items():
            ascent._set_eta(task, gradients[at : at + len(parameters)])
            at += len(parameters)
        shared = [found.get(i) for i in range(len(ascent.shared))]
        return ascent._scale.undo_(ascent.fresh().copy_(shared))

    def from_the_loss(self) -> list[int]:
        return self._ascent._from_the_loss

    def _mean_of(self, losses: Mapping[str, Tensor]) -> Tensor:
        total = _wide(losses[self.task])
        for task in self._tasks[1:]:
            total = total + losses[task].detach().to(total)
        return total / len(self._tasks) if len(self._tasks) > 1 else total


def _wide(loss: Tensor) -> Tensor:
    return loss.detach().to(wide(loss.dtype), copy=True)  # a loss may be a parameter
