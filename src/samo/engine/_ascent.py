"""The ascent: where each task's loss is evaluated a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.distributed._placement import Placement, Replicated
from samo.distributed._ranks import Agreement, Alone, Ranks
from samo.engine._finite import Ledger
from samo.engine._partition import Partition
from samo.engine._probe import TaskProbe
from samo.engine._rows import Scale, TaskGradients, gradients_of
from samo.engine._setting import Setting
from samo.model._graph import distances
from samo.model._random import Streams
from samo.model._trace import Point, displaced
from samo.perturbations import Grouping, LocalGradient
from samo.perturbations._perturbation import Perturbation
from samo.tensors._vector import Vector, cut
from samo.tensors._workspace import Workspace

# Farther from a loss than any parameter that it reaches.
_FAR = 1 << 40

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
        workspace: The storage.
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
        workspace: Workspace,
    ) -> None:
        self._perturbation = perturbation
        self.partition = partition
        self.ranks, self.placement = ranks, placement
        self.agreed = agreed
        self._tasks = list(agreed.means)
        self.losses = losses
        self.evaluate = evaluate
        self.streams = streams
        self._scale = scale
        self.ledger = ledger
        self._workspace = workspace
        self.shared, self._masks = self._select(partition.shared)
        self.point = self._point_of("shared", self.shared)
        self._own = {task: self._select(own) for task, own in partition.own.items()}
        counts = [len(own) for own, _ in self._own.values()]
        at = self._point_of("own", [p for own, _ in self._own.values() for p in own])
        etas = workspace.vector("etas", at.values.layout)
        self._own_points = dict(zip(self._own, at.sections(counts), strict=True))
        self._etas = dict(zip(self._own, etas.layout.sections(etas, counts), strict=True))
        self._found: set[str] = set()  # the tasks whose η is known
        self._mean: Vector | None = None
        self.rows: dict[str, tuple[list[Tensor], float]] = {}
        self.estimator: LocalGradient | None = perturbation.estimator if self.shared else None

    def groups(self, tasks: Sequence[str]) -> list[list[str]]:
        """The tasks that are evaluated at one point: all where there is one ε, else each alone.

        An estimator may divide them otherwise, by their gradients; so this is to be asked for when
        the directions were found.

        Args:
            tasks: The tasks that some rank has.

        Returns:
            The groups, the same on all ranks.
        """
        if isinstance(self.estimator, Grouping):
            return self._groups
        return [list(tasks)] if self.estimator is None else [[task] for task in tasks]

    @property
    def exact(self) -> bool:
        """Whether the estimator asks for gradients at the natural point."""
        return self.estimator is not None and self.estimator.exact

    @property
    def by_task(self) -> bool:
        """Whether what it asks for is every task's whole gradient, and nothing else."""
        grouped = isinstance(self.estimator, Grouping)
        return self.exact and not grouped and not self._uses_mean

    def from_gradients(self, natural: TaskGradients, shares: Mapping[str, float]) -> None:
        """Finds the directions from the gradients of the natural losses, where these were made.

        Args:
            natural: The gradients.
            shares: What they are multiplied by.
        """
        places = {id(parameter): i for i, parameter in enumerate(self.partition.shared)}
        at = [places[id(parameter)] for parameter in self.shared]
        mean = self._direction("mean").copy_([None] * len(at))
        for task in self._tasks:
            row, factor = natural.row(task).tensors, 1 / shares[task]
            self.rows[task] = [row[i] for i in at], factor
            mean.add_(self.rows[task][0], factor / len(self._tasks))
            if task in natural.own:
                parts = zip(self.partition.own[task], natural.own[task].tensors, strict=True)
                own = {id(parameter): part for parameter, part in parts}
                self._etas[task].copy_([own[id(parameter)] for parameter in self._own[task][0]])
                self._finish_eta(task)
        self._set_mean(mean)

    def from_losses(self) -> None:
        """Finds the directions by one backward pass from the mean of the natural losses.

        With α = 0 and an exact estimator that does not use it, nothing depends on the mean, and the
        pass is left out.
        """
        if self.exact and not self._uses_mean and self._perturbation.alpha == 0:
            return
        mean, weight = self._direction("mean"), 1 / max(1, len(self._tasks))
        every = range(len(self.shared))
        self.differentiate(self._tasks, weight, mean, every, retain=self.exact)
        self._set_mean(mean)

    @cached_property
    def from_the_loss(self) -> list[int]:
        """The shared parameters' numbers, the nearest to the losses first."""
        found = distances(self.losses.values()).items()
        far = {i: d for leaf, d in found for i in self.placement.behind({leaf})}
        # As a rank sees it that is the nearest: one without a task's labels does not see its graph.
        near = torch.tensor([-far.get(id(parameter), _FAR) for parameter in self.shared])
        numbers = self.ranks.largest(near).tolist()
        return sorted(range(len(numbers)), key=lambda i: (-numbers[i], -i))

    @cached_property
    def _groups(self) -> list[list[str]]:
        """The groups of the tasks that ascend here."""
        if isinstance(self.estimator, Grouping):
            return self.estimator.group({task: TaskProbe(self, [task]) for task in self._tasks})
        return self.groups(self._tasks)

    @property
    def _uses_mean(self) -> bool:
        return self.estimator is not None and self.estimator.uses_mean

    @contextmanager
    def displaced(self, group: Sequence[str]) -> Iterator[None]:
        """Holds the parameters at θ + ε and φ_i + η_i for the tasks of a group.

        Tasks that do not ascend here (another rank's alone) are left out.
        """
        group = [task for task in group if task in self.agreed.means]
        if not group:
            yield
            return
        direction, factor = self._epsilon(group)
        own = [(self._own_points[t], self._etas[t]) for t in group if t in self._found]
        with displaced([(self.point, direction)], factor), displaced(own):
            yield
        if self.estimator is not None:
            self._workspace.give("direction", direction)

    def fresh(self) -> Vector:
        """A vector of the perturbed shared parameters that nobody else uses."""
        return self._workspace.take("direction", self.point.values.layout)

    def _epsilon(self, group: Sequence[str]) -> tuple[Vector, float]:
        """A direction, and what ε is a multiple of it by."""
        if self.estimator is None:
            direction = self.mean
        else:
            probe = TaskProbe(self, group, last=list(group) == self._groups[-1])
            direction = self.estimator.estimate(probe)
            alpha = self._perturbation.alpha
            if alpha > 0:
                direction.lerp_(self.mean, alpha)
        values = self.point.values
        norm, factor = self._perturbation.to_radius_(self.masked(direction), values)
        self.ledger.note(group, "ascent direction", norm)
        return direction, factor

    @property
    def mean(self) -> Vector:
        """g_0, the gradient of the mean loss."""
        if self._mean is None:
            raise RuntimeError(
                "There is no mean gradient to ask for: with alpha=0, none is made for an exact "
                "estimator whose uses_mean is False."
            )
        return self._mean

    @cached_property
    def mean_norms(self) -> list[Tensor]:
        """The norms of its tensors."""
        return self.mean.norms()

    def _set_mean(self, mean: Vector) -> None:
        self._mean = self.masked(mean)
        self.ledger.note(self._tasks, "natural gradient", mean.norm())

    def differentiate(
        self,
        tasks: Sequence[str],
        weight: float,
        shared: Vector,
        chosen: Sequence[int],
        *,
        retain: bool,
    ) -> None:
        """Fills a vector with ∇_θ of some tasks' losses times a weight, and finds missing η.

        Args:
            tasks: The tasks.
            weight: The weight.
            shared: The vector.
            chosen: The numbers of the tensors to differentiate with respect to; zero elsewhere.
            retain: Whether the natural graph is to be used again.
        """
        here = [task for task in tasks if task in self.losses]
        own = {task: self._own[task][0] for task in tasks if task not in self._found}
        shares = self.agreed.shares
        gradients = gradients_of(
            [self.losses[task] for task in here],
            [*(self.shared[i] for i in chosen), *(p for ps in own.values() for p in ps)],
            [self._scale.seed(self.losses[task], weight * shares[task]) for task in here],
            retain=retain,
            partition=self.partition,
            placement=self.placement,
        )
        of_shared, *of_own = cut(gradients, [len(chosen), *map(len, own.values())])
        found = dict(zip(chosen, of_shared, strict=True))
        shared.copy_([found.get(i) for i in range(len(self.shared))])
        for task, part in zip(own, of_own, strict=True):
            self._etas[task].copy_(part)
        small = [flat for task in own for flat in self._etas[task].flats]
        self.placement.reduce_(shared.flats, small)
        self._scale.undo_(shared)
        for task in own:
            self._finish_eta(task)

    def _finish_eta(self, task: str) -> None:
        """η_i from a positive multiple of ∇_φi l_i, in its place."""
        parameters, masks = self._own[task]
        if not parameters:
            return
        eta = self._etas[task].hadamard_(masks)
        norm, factor = self._perturbation.to_radius_(eta, self._own_points[task].values)
        eta.mul_(factor)
        self.ledger.note([task], "natural gradient", norm)
        self._found.add(task)

    def _point_of(self, whose: str, parameters: Sequence[Parameter]) -> Point:
        layout = self._workspace.layout(f"{whose}, perturbed", parameters)
        return Point.of(parameters, self._workspace.vector(f"values of {whose}", layout))

    def _direction(self, use: str) -> Vector:
        return self._workspace.vector(use, self.point.values.layout)

    def _select(
        self, parameters: Sequence[Parameter]
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        name = self.partition.name
        return self._perturbation.selected((name(p), p) for p in parameters)

    def masked(self, vector: Vector) -> Vector:
        return vector if self._perturbation.where is None else vector.hadamard_(self._masks)


def ascent_of(
    setting: Setting,
    perturbation: Perturbation,
    agreed: Agreement,
    losses: Mapping[str, Tensor],
    evaluate: Evaluate,
    scale: Scale,
    ledger: Ledger,
) -> Ascent:
    """The ascent of all ranks together, or of this rank by itself.

    Args:
        setting: What is the engine's.
        perturbation: The perturbation.
        agreed: What the ranks have agreed on.
        losses: This rank's natural losses, with their graphs.
        evaluate: Evaluates some tasks' losses with the parameters as they are.
        scale: The factor on losses before backward passes.
        ledger: Where to enter what must be finite.

    Returns:
        The ascent.
    """
    ranks, placement, streams = setting.ranks, setting.placement, setting.streams
    if not setting.sync_perturbation:
        streams = streams.apart(ranks.rank)
        ranks = Alone()
        placement = Replicated(setting.model, ranks)
        agreed = ranks.agree(losses, agreed.sizes, news=False)
    return Ascent(
        perturbation,
        setting.partition,
        ranks,
        placement,
        agreed,
        losses,
        evaluate,
        streams,
        scale,
        ledger,
        setting.workspace,
    )
