"""The ascent: where each task's loss is evaluated a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from ._gradients import Scale, TaskGradients, gradients_of
from ._ledger import Ledger
from ._local import LocalGradient
from ._local._base import Noise
from ._partition import Partition
from ._perturbation import Perturbation
from ._placement import Fill, Placement
from ._random import Streams
from ._ranks import Agreement, Ranks
from ._trace import Point
from ._vector import Vector, wide

Evaluate = Callable[[Sequence[str]], Mapping[str, Tensor]]


class Ascent:
    """The perturbations ε_i and η_i of one micro-batch.

    Args:
        perturbation: The radius, and what to ascend along.
        partition: The shared and own parameters.
        ranks: The ranks that ascend together.
        placement: Where the parameters are.
        agreed: The tasks, with their natural losses and this rank's shares.
        losses: This rank's natural losses by task, with their graphs.
        evaluate: Evaluates some tasks' losses with the parameters as they are.
        streams: The engine's generators.
        scale: The factor on losses before backward passes.
        ledger: Where to enter what must be finite.
    """

    def __init__(
        self,
        perturbation: Perturbation,
        partition: Partition,
        ranks: Ranks,
        placement: Placement,
        agreed: Agreement,
        losses: Mapping[str, Tensor],
        evaluate: Evaluate,
        streams: Streams,
        scale: Scale,
        ledger: Ledger,
    ) -> None:
        self._perturbation = perturbation
        self._partition = partition
        self._ranks, self._placement = ranks, placement
        self._agreed = agreed
        self._tasks = list(agreed.means)
        self._losses = losses
        self._evaluate = evaluate
        self._streams = streams
        self._scale = scale
        self._ledger = ledger
        self.shared, self._masks = self._select(partition.shared)
        self._point = Point(self.shared, placement.spread)
        self._own = {task: self._select(partition.own[task]) for task in self._tasks}
        self._own_points = {t: Point(own, placement.spread) for t, (own, _) in self._own.items()}
        self._etas: dict[str, Vector] = {}
        self._mean: Vector | None = None
        self._rows: dict[str, tuple[list[Tensor], float]] = {}
        self.estimator: LocalGradient | None = perturbation.estimator if self.shared else None

    def groups(self, tasks: Sequence[str]) -> list[list[str]]:
        """The tasks that are evaluated at one point: all where there is one ε, else each alone."""
        return [list(tasks)] if self.estimator is None else [[task] for task in tasks]

    def from_gradients(self, natural: TaskGradients, shares: Mapping[str, float]) -> None:
        """Finds the directions from the gradients of the natural losses, where these were made.

        Args:
            natural: The gradients.
            shares: What they are multiplied by.
        """
        places = {id(parameter): i for i, parameter in enumerate(self._partition.shared)}
        at = [places[id(parameter)] for parameter in self.shared]
        mean = self._point.layout.zeros()
        for task in self._tasks:
            row, factor = natural.row(task).tensors, 1 / shares[task]
            self._rows[task] = [row[i] for i in at], factor
            mean.add_(self._rows[task][0], factor / len(self._tasks))
            if task in natural.own:
                parts = zip(self._partition.own[task], natural.own[task].tensors, strict=True)
                own = {id(parameter): part for parameter, part in parts}
                gradients = [own[id(parameter)] for parameter in self._own[task][0]]
                self._set_eta(task, self._own_points[task].layout.copy_of(gradients))
        self._set_mean(mean)

    def from_losses(self) -> None:
        """Finds the directions by one backward pass from the mean of the natural losses.

        With α = 0 and an exact estimator, nothing depends on the mean, and the pass is left out.
        """
        exact = self.estimator is not None and self.estimator.exact
        if exact and self._perturbation.alpha == 0:
            return
        mean, etas = self._gradients(self._tasks, 1 / max(1, len(self._tasks)), retain=exact)
        self._set_mean(mean)
        for task, eta in etas.items():
            self._set_eta(task, eta)

    @contextmanager
    def displaced(self, group: Sequence[str]) -> Iterator[None]:
        """Holds the parameters at θ + ε and φ_i + η_i for the tasks of a group.

        Tasks that are not this ascent's are none of its business.
        """
        group = [task for task in group if task in self._own]
        if not group:
            yield
            return
        epsilon = self._epsilon(group)
        with ExitStack() as stack:
            stack.enter_context(self._point.displaced(epsilon))
            for task in group:
                if task in self._etas:
                    stack.enter_context(self._own_points[task].displaced(self._etas[task]))
            yield

    def _epsilon(self, group: Sequence[str]) -> Vector:
        if self.estimator is None:
            assert self._mean is not None
            direction = self._mean
        else:
            (task,) = group
            direction = self.estimator.estimate(_Probe(self, task))
            alpha = self._perturbation.alpha
            if alpha > 0:
                assert self._mean is not None
                direction.mul_(1 - alpha).add_(self._mean.tensors, alpha)
        norm = self._perturbation.to_radius_(self._masked(direction), self._point.values)
        self._ledger.note(group, "ascent direction", norm)
        return direction

    def _gradients(
        self, tasks: Sequence[str], weight: float, *, retain: bool
    ) -> tuple[Vector, dict[str, Vector]]:
        """The gradient of some tasks' losses, all with one weight, over all ranks.

        Returns:
            The part of the shared parameters, and the tasks' own.
        """
        here = [task for task in tasks if task in self._losses]
        own = [parameter for task in tasks for parameter in self._own[task][0]]
        seeds = [self._scale.seed(self._losses[t], weight * self._agreed.shares[t]) for t in here]
        gradients = gradients_of(
            [self._losses[task] for task in here],
            [*self.shared, *own],
            seeds,
            retain=retain,
            partition=self._partition,
            placement=self._placement,
        )
        at = len(self.shared)
        shared = self._point.layout.copy_of(gradients[:at])
        etas: dict[str, Vector] = {}
        for task in tasks:
            if count := len(self._own[task][0]):
                etas[task] = self._own_points[task].layout.copy_of(gradients[at : at + count])
                at += count
        vectors = [shared, *etas.values()]
        self._placement.reduce_([flat for vector in vectors for flat in vector.flats])
        return self._scale.undo_(shared), etas

    def _set_mean(self, mean: Vector) -> None:
        self._mean = self._masked(mean)
        self._ledger.note(self._tasks, "natural gradient", mean.norm())

    def _set_eta(self, task: str, eta: Vector) -> None:
        """η_i from a positive multiple of ∇_φi l_i, which is overwritten."""
        parameters, masks = self._own[task]
        if not parameters:
            return
        norm = self._perturbation.to_radius_(eta.hadamard_(masks), self._own_points[task].values)
        self._ledger.note([task], "natural gradient", norm)
        self._etas[task] = eta

    def _select(
        self, parameters: Sequence[Parameter]
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        name = self._partition.name
        return self._perturbation.selected((name(p), p) for p in parameters)

    def _masked(self, vector: Vector) -> Vector:
        return vector.hadamard_(self._masks)


class _Probe:
    """The `Probe` of one task."""

    def __init__(self, ascent: Ascent, task: str) -> None:
        self._ascent = ascent
        self.task = task
        self.loss = _wide(ascent._agreed.means[task])

    @property
    def names(self) -> list[str]:
        return [self._ascent._partition.name(p) for p in self._ascent.shared]

    @property
    def mean(self) -> Vector:
        if self._ascent._mean is None:
            raise RuntimeError("With alpha=0, an exact estimator has no mean gradient to ask for.")
        return self._ascent._mean

    def draw(self, noise: Noise) -> Vector:
        ascent, vector = self._ascent, self._ascent._point.layout.empty()
        ascent._placement.fill(vector, ascent.shared, ascent._streams, _FILL[noise])
        return ascent._masked(vector)

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        ascent, losses = self._ascent, {}
        if self.task in ascent._losses:
            with ascent._point.displaced(direction, step), torch.no_grad():
                # A loss may be a parameter.
                losses[self.task] = ascent._evaluate([self.task])[self.task].clone()
        loss = _wide(ascent._ranks.means([self.task], losses, ascent._agreed.shares)[self.task])
        ascent._ledger.note([self.task], "loss at a probing point", loss)
        return loss

    def gradient(self) -> Vector:
        ascent = self._ascent
        if self.task in ascent._rows:
            row, factor = ascent._rows[self.task]
            return ascent._point.layout.copy_of(row).mul_(factor)
        last = next(reversed(ascent._losses), None)
        gradient, etas = ascent._gradients([self.task], 1.0, retain=self.task != last)
        for task, eta in etas.items():
            ascent._set_eta(task, eta)
        return gradient


_FILL: dict[Noise, Fill] = {
    "gaussian": lambda flat, generator: flat.normal_(generator=generator),
    "rademacher": lambda flat, generator: flat.bernoulli_(0.5, generator=generator).mul_(2).sub_(1),
}


def _wide(loss: Tensor) -> Tensor:
    return loss.detach().to(wide(loss.dtype), copy=True)  # a loss may be a parameter
