"""The task gradients of a batch, stored in as little memory as the aggregation allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.distributed import Placement, Ranks
from samo.tensors import Matrix, Vector, cut

from ._finite import Guard
from ._partition import Partition
from ._setting import Level, Setting


@dataclass(frozen=True)
class Plan:
    """How task gradients are stored.

    Attributes:
        use: The purpose of the matrix in the workspace.
        stage: The name of the gradients in errors, for instance "natural gradient".
        weights: The weights of the present tasks by task, if they are known already. Then only the
            weighted sum is stored, no matrix.
        weighs_own: Whether the weights apply to the tasks' own parameters as well.
        remembers: Whether each task's gradient is also stored separately.
        columns: The ranks among which the columns of the matrix are divided, each row as soon as it
            is computed; None if each rank keeps all of them.
    """

    use: str
    stage: str
    weights: Mapping[str, Tensor | float] | None = None
    weighs_own: bool = False
    remembers: bool = False
    columns: Ranks | None = None


class TaskGradients(ABC):
    """Gradients of the tasks' losses: `AtParameters`, or at the representation.

    Args:
        setting: The engine's setting.
        shares: This rank's share of each present task's samples.
        guard: The loss scale and the finiteness checks. The caller checks the rows of a matrix.
        plan: How the gradients are stored.

    Attributes:
        level: Where the gradients are taken.
        plan: How the gradients are stored.
        rows: A gradient for each task; None if they are summed.
        total: Their weighted sum; None if there are rows.
        own: The gradients with respect to the tasks' own parameters.
        remembered: The tasks' gradients that are stored separately.
        reached: The ids of the parameters that the losses reach.
        sizes: The sizes of the micro-batches, for each task with a gradient.
    """

    level: ClassVar[Level]

    def __init__(
        self, setting: Setting, shares: Mapping[str, float], guard: Guard, plan: Plan
    ) -> None:
        partition, workspace = setting.partition, setting.workspace
        self._partition, self._world = partition, setting.world
        self._shares, self._guard, self.plan = shares, guard, plan
        self._shared, self._own = partition.shared, partition.own
        self._index = {task: i for i, task in enumerate(setting.tasks)}
        self._layout = workspace.layout("shared", self._shared)
        own = workspace.layout("own", [p for own in self._own.values() for p in own]).zeros()
        counts = [len(own) for own in self._own.values()]
        self._parts = dict(zip(self._own, own.layout.sections(own, counts), strict=True))
        self._all_own = own
        self.rows: Matrix | None = None
        self.total: Vector | None = None
        self.own: dict[str, Vector] = {}
        self.remembered: dict[str, Vector] = {}
        self.reached: set[int] = set()
        self.sizes: dict[str, float] = {}

    @abstractmethod
    def collect(self, tasks: Sequence[str], losses: dict[str, Tensor]) -> None:
        """Adds the gradients of losses, times this rank's shares; the graphs are freed."""

    @abstractmethod
    def reduce(self) -> None:
        """Sums over the ranks what the aggregation needs."""

    @abstractmethod
    def pull_back(self, combined: Vector) -> Vector:
        """Returns the gradient of the shared parameters, given a combination of the rows."""

    def row(self, task: str) -> Vector:
        """Returns the row of a task."""
        assert self.rows is not None
        return self.rows.rows[self._index[task]]

    @property
    def present(self) -> list[str]:
        """The tasks that have a gradient, in the order of the rows."""
        return [task for task in self._index if task in self.sizes]

    @property
    def numbers(self) -> list[int]:
        """The indices of the tasks that have a gradient."""
        return [i for task, i in self._index.items() if task in self.sizes]

    def multiply_own(self, factors: Tensor) -> None:
        """Multiplies the gradients of own parameters by a factor for each present task."""
        for task, factor in zip(self.present, factors, strict=True):
            if task in self.own:
                self.own[task].mul_(factor)

    def _set_own(self, gradients: Mapping[str, Sequence[Tensor | None]]) -> None:
        """Copies and checks the gradients of tasks' own parameters."""
        parts = {task: self._parts[task] for task, found in gradients.items() if found}
        if not parts:
            return
        pairs = (zip(part.tensors, gradients[task], strict=True) for task, part in parts.items())
        present = [(view, found) for view, found in chain(*pairs) if found is not None]
        if present:
            torch._foreach_copy_([view for view, _ in present], [found for _, found in present])
        for part in parts.values():
            self._guard.unscale_(part)
        self.own.update(parts)
        # The norm of all is finite if each is, unless it overflows.
        whole = self._all_own if len(parts) > 1 else next(iter(parts.values()))
        self._guard.check(list(parts), self.plan.stage, whole.norm(), parts)


class AtParameters(TaskGradients):
    """Gradients with respect to the shared parameters: a K × m matrix, or their weighted sum."""

    level = "parameter"

    def __init__(
        self, setting: Setting, shares: Mapping[str, float], guard: Guard, plan: Plan
    ) -> None:
        super().__init__(setting, shares, guard, plan)
        if plan.weights is None:
            kept, ranks = self._layout, plan.columns
            if ranks is not None:
                kept = setting.workspace.columns(kept, ranks.size, ranks.total)
            self.rows = setting.workspace.matrix(plan.use, kept, len(setting.tasks))
        self._reduced = False

    def collect(self, tasks: Sequence[str], losses: dict[str, Tensor]) -> None:
        """Adds the gradients of losses, times this rank's shares; the graphs are freed."""
        plan, weights = self.plan, self.plan.weights or {}
        together = plan.weighs_own and not plan.remembers
        groups = [list(tasks)] if together else [[task] for task in tasks]
        last = list(losses)[-1] if losses else None
        for group in groups:
            here = [task for task in group if task in losses]
            factors = [(weights[t] if together else 1.0) * self._shares[t] for t in here]
            shared, own = self._backward(
                [losses[task] for task in here],
                [self._guard.seed(losses[t], w) for t, w in zip(here, factors, strict=True)],
                group,
                retain=last not in here,
            )
            self._set_own(own)
            for task in group:
                self.sizes[task] = 1.0
                if task in self.own and plan.weighs_own and not together:
                    self.own[task].mul_(weights[task])
            self._add_shared(group, shared, weighed=together)

    def merge(self, earlier: AtParameters) -> None:
        """Adds the gradients of earlier micro-batches, which may have reached fewer parameters."""
        for task in earlier.sizes:
            found = dict(zip(map(id, earlier._shared), earlier.row(task).tensors, strict=True))
            if task in earlier.own:
                own = zip(map(id, earlier._own[task]), earlier.own[task].tensors, strict=True)
                found.update(own)
            shared = [found.get(id(parameter)) for parameter in self._shared]
            if task in self.sizes:
                self.row(task).add_(shared)
            else:
                self.row(task).copy_(shared)
            if self._own[task]:
                mine = self.own.setdefault(task, self._parts[task])
                mine.add_([found.get(id(parameter)) for parameter in self._own[task]])
            if task in earlier.remembered:
                self.remembered.setdefault(task, self._layout.zeros()).add_(shared)
            self.sizes[task] = self.sizes.get(task, 0.0) + earlier.sizes[task]
        self.reached |= earlier.reached

    def multiply_sizes(self, sizes: Mapping[str, float]) -> None:
        """Multiplies each task's gradient by the size of its micro-batch."""
        self.sizes = {task: sizes[task] for task in self.sizes}
        self._multiply(self.sizes)

    def average(self) -> None:
        """Divides each task's sum by the size of its micro-batches."""
        self._multiply({task: 1 / size for task, size in self.sizes.items()})

    def reduce(self) -> None:
        """Sums over the ranks, in one transfer for the rows and one for the rest."""
        if self._reduced or self._world.ranks.size == 1:
            return
        self._reduced = True
        main = self.total if self.rows is None else self.rows
        assert main is not None
        kept = self.remembered.values() if self.rows is None else []
        rest = [flat for vector in (*self.own.values(), *kept) for flat in vector.flats]
        parameters = [*self._shared, *(p for ps in self._own.values() for p in ps)]
        ids = list(map(id, parameters))
        whole = main.flats if self.plan.columns is None else []
        marks = self._world.placement.reduce_(whole, rest, [i in self.reached for i in ids])
        self.reached = {i for i, mark in zip(ids, marks, strict=True) if mark}
        if self.rows is not None:
            for task, vector in self.remembered.items():
                vector.copy_(self.row(task).tensors)

    def pull_back(self, combined: Vector) -> Vector:
        """Gathers a combination of the rows from the columns of all ranks."""
        ranks = self.plan.columns
        if ranks is None:
            return combined
        whole = self._layout.padded(ranks.size)
        for flat, part in zip(whole.flats, combined.flats, strict=True):
            flat.copy_(ranks.gather(part))
        return whole

    def _multiply(self, factors: Mapping[str, float]) -> None:
        for task, factor in factors.items():
            if factor != 1:
                if self.rows is not None:
                    self.row(task).mul_(factor)
                for vectors in (self.own, self.remembered):
                    if task in vectors:
                        vectors[task].mul_(factor)

    def _backward(
        self, losses: list[Tensor], seeds: list[Tensor], group: list[str], *, retain: bool
    ) -> tuple[list[Tensor | None], dict[str, list[Tensor | None]]]:
        parameters = [*self._shared, *(p for task in group for p in self._own[task])]
        gradients = differentiate(
            losses, parameters, seeds, self._world.placement, self._partition, retain=retain
        )
        pairs = zip(parameters, gradients, strict=True)
        self.reached.update(id(p) for p, gradient in pairs if gradient is not None)
        counts = [len(self._shared), *(len(self._own[task]) for task in group)]
        shared, *own = cut(gradients, counts)
        return shared, dict(zip(group, own, strict=True))

    def _add_shared(
        self, group: list[str], gradients: list[Tensor | None], *, weighed: bool
    ) -> None:
        guard, weights = self._guard, self.plan.weights
        if self.plan.remembers:
            self.remembered[group[0]] = guard.unscale_(self._layout.copy_of(gradients))
        if weights is None:
            self._add_row(group[0], gradients)
            return
        alpha: Tensor | float = 1.0 if weighed else weights[group[0]]
        if guard.factor is not None:
            alpha = alpha / guard.factor
        if self.total is not None:
            self.total.add_(gradients, alpha)
        else:
            self.total = self._layout.copy_of(gradients)
            if not weighed or guard.factor is not None:
                self.total.mul_(alpha)
        guard.check(group, self.plan.stage, self.total.norm())

    def _add_row(self, task: str, gradients: list[Tensor | None]) -> None:
        row, ranks = self.row(task), self.plan.columns
        vector = row if ranks is None else self._layout.padded(ranks.size)
        self._guard.unscale_(vector.copy_(gradients))
        if ranks is not None:
            for part, flat in zip(row.flats, vector.flats, strict=True):
                part.copy_(ranks.scatter(flat))


def differentiate(
    losses: Sequence[Tensor],
    parameters: Sequence[Parameter],
    seeds: Sequence[Tensor],
    placement: Placement,
    partition: Partition,
    *,
    retain: bool,
) -> list[Tensor | None]:
    """Differentiates a weighted sum of losses.

    Args:
        losses: The losses, with their graphs.
        parameters: The parameters.
        seeds: The losses' weights, in the losses' dtypes.
        placement: The placement of the parameters.
        partition: Provides the parameters' names.
        retain: Whether the graph is needed again.

    Returns:
        The gradients; None for parameters that the losses do not reach.

    Raises:
        ValueError: If a gradient is sparse or complex.
    """
    if not parameters:
        return []
    gradients = placement.differentiate(losses, parameters, seeds, retain=retain)
    return dense(gradients, parameters, partition)


def dense(
    gradients: list[Tensor | None], parameters: Sequence[Parameter], partition: Partition
) -> list[Tensor | None]:
    """Returns gradients if they are dense and real, else raises ValueError."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.layout is not torch.strided:
            raise ValueError(
                f"The gradient of parameter {partition.names[id(parameter)]!r} is sparse "
                f"({gradient.layout}). Perturbations and task gradients need dense ones: make its "
                f"layer with sparse=False."
            )
        if gradient is not None and gradient.is_complex():
            raise ValueError(
                f"Parameter {partition.names[id(parameter)]!r} is complex ({gradient.dtype}). "
                f"Inner products of task gradients need real ones: keep it as torch.view_as_real "
                f"returns it, and use torch.view_as_complex in the model."
            )
    return gradients
