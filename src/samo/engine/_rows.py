"""The task gradients of a step, kept in as little room as the aggregation allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.distributed._placement import Placement
from samo.distributed._ranks import Ranks
from samo.engine._finite import Ledger
from samo.engine._partition import Partition
from samo.tensors._dtensor import assembled, local
from samo.tensors._vector import Matrix, Vector, cut
from samo.tensors._workspace import Workspace


class Scale:
    """The factor of a ``GradScaler`` that losses are multiplied by before backward passes.

    Args:
        factor: A 0-d tensor, or None for no scaling.
    """

    def __init__(self, factor: Tensor | None) -> None:
        self.factor = factor

    def seed(self, loss: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """What a backward pass from a loss starts with: the weight times the factor."""
        if isinstance(weight, Tensor):
            seed = weight.to(loss.device, loss.dtype)
        else:  # filled on the device, which is not waited for
            seed = torch.full((), weight, dtype=loss.dtype, device=loss.device)
        return seed if self.factor is None else seed * self.factor.to(loss.device, loss.dtype)

    def undo_(self, vector: Vector) -> Vector:
        """Divides the factor out of a gradient."""
        return vector if self.factor is None else vector.mul_(1 / self.factor)

    def apply_(self, vector: Vector) -> Vector:
        """Multiplies a gradient by the factor."""
        return vector if self.factor is None else vector.mul_(self.factor)


class TaskGradients:
    """Gradients of the tasks' losses: of shape K × m, or their weighted sum where it is known how.

    Args:
        partition: The shared and own parameters.
        placement: Where the parameters are.
        tasks: All tasks, in the order of the rows.
        shares: This rank's part of each present task's samples.
        workspace: The storage.
        use: Which of the workspace's matrices to use.
        scale: The factor on the losses.
        ledger: Where to enter what must be finite.
        stage: What the gradients are called in an error: "natural gradient", say. The rows of a
            matrix are entered by whoever makes something of them.
        weights: The weights of the present tasks if they are known already, by task.
        weighs_own: Whether the weights apply to the tasks' own parameters as well.
        remembers: Whether each task's gradient is to be kept by itself as well.
        columns: The ranks between which the columns of the matrix are divided, each row as soon as
            it is made; None where each rank keeps all of them.
    """

    def __init__(
        self,
        partition: Partition,
        placement: Placement,
        tasks: Sequence[str],
        shares: Mapping[str, float],
        workspace: Workspace,
        use: str,
        scale: Scale,
        ledger: Ledger,
        stage: str,
        *,
        weights: Mapping[str, Tensor] | None = None,
        weighs_own: bool = False,
        remembers: bool = False,
        columns: Ranks | None = None,
    ) -> None:
        self._partition, self._placement = partition, placement
        self._shares, self._columns = shares, columns
        self._scale, self._ledger, self.stage = scale, ledger, stage
        self._shared, self._own = partition.shared, partition.own
        self._index = {task: i for i, task in enumerate(tasks)}
        self._weights = weights or {}
        self._weighs_own = weighs_own
        self._remembers = remembers
        self._layout = workspace.layout("shared", self._shared)
        every = workspace.layout("own", [p for own in self._own.values() for p in own]).zeros()
        counts = [len(own) for own in self._own.values()]
        self._parts = dict(zip(self._own, every.layout.sections(every, counts), strict=True))
        self.rows: Matrix | None = None
        self.total: Vector | None = None
        if weights is None:
            kept = self._layout if columns is None else workspace.columns(self._layout, columns)
            self.rows = workspace.matrix(use, kept, len(tasks))
        self.own: dict[str, Vector] = {}
        self.remembered: dict[str, Vector] = {}
        self.reached: set[int] = set()
        self.sizes: dict[str, float] = {}
        self._reduced = False

    @property
    def present(self) -> list[str]:
        """The tasks that have a gradient, in the order of the rows."""
        return [task for task in self._index if task in self.sizes]

    def row(self, task: str) -> Vector:
        """The gradient of a task with respect to the shared parameters, where rows are kept."""
        assert self.rows is not None
        return self.rows.rows[self._index[task]]

    def collect(self, tasks: Sequence[str], losses: Mapping[str, Tensor]) -> None:
        """Adds the gradients of some tasks' losses, times this rank's shares.

        Args:
            tasks: The tasks.
            losses: This rank's losses of them, with their graphs, which are used up.
        """
        together = self._weighs_own and not self._remembers
        groups = [list(tasks)] if together else [[task] for task in tasks]
        last = list(losses)[-1] if losses else None
        for group in groups:
            here = [task for task in group if task in losses]
            weights = [(self._weights[t] if together else 1.0) * self._shares[t] for t in here]
            shared, own = self._backward(
                [losses[task] for task in here],
                [self._scale.seed(losses[t], w) for t, w in zip(here, weights, strict=True)],
                group,
                retain=last not in here,
            )
            for task in group:
                self.sizes[task] = 1.0
                self._add_own(task, own[task], weighed=together)
            self._add_shared(group, shared, weighed=together)

    def merge(self, earlier: TaskGradients) -> None:
        """Adds the gradients of the micro-batches before.

        Parameters that these did not reach, or that fewer tasks reached, may have found their part
        since.
        """
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

    def weigh(self, sizes: Mapping[str, float]) -> None:
        """Multiplies each task's gradient by its micro-batch's size."""
        self.sizes = {task: sizes[task] for task in self.sizes}
        self._multiply(self.sizes)

    def average(self) -> None:
        """Divides each task's sum by the size of its micro-batches."""
        self._multiply({task: 1 / size for task, size in self.sizes.items()})

    def reduce(self) -> None:
        """Sums over the ranks, in one transfer for the rows and one for the rest."""
        if self._reduced:
            return
        self._reduced = True
        main = self.total if self.rows is None else self.rows
        assert main is not None
        kept = self.remembered.values() if self.rows is None else []
        rest = [flat for vector in (*self.own.values(), *kept) for flat in vector.flats]
        parameters = [*self._shared, *(p for ps in self._own.values() for p in ps)]
        ids = list(map(id, parameters))
        whole = main.flats if self._columns is None else []
        marks = self._placement.reduce_(whole, rest, [i in self.reached for i in ids])
        self.reached = {i for i, mark in zip(ids, marks, strict=True) if mark}
        if self.rows is not None:
            for task, vector in self.remembered.items():
                vector.copy_(self.row(task).tensors)

    def whole(self, update: Vector) -> Vector:
        """A combination of the rows, from the ranks' columns of it."""
        if self._columns is None:
            return update
        whole = self._layout.padded(self._columns.size)
        for flat, part in zip(whole.flats, update.flats, strict=True):
            flat.copy_(self._columns.gather(part))
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
        gradients = gradients_of(
            losses,
            parameters,
            seeds,
            retain=retain,
            partition=self._partition,
            placement=self._placement,
        )
        pairs = zip(parameters, gradients, strict=True)
        self.reached.update(id(p) for p, gradient in pairs if gradient is not None)
        counts = [len(self._shared), *(len(self._own[task]) for task in group)]
        shared, *own = cut(gradients, counts)
        return shared, dict(zip(group, own, strict=True))

    def _add_own(self, task: str, gradients: list[Tensor | None], *, weighed: bool) -> None:
        if not gradients:
            return
        vector = self._scale.undo_(self._parts[task].copy_(gradients))
        self._ledger.note([task], self.stage, vector.norm())
        if self._weighs_own and not weighed:
            vector.mul_(self._weights[task])
        self.own[task] = vector

    def _add_shared(
        self, group: list[str], gradients: list[Tensor | None], *, weighed: bool
    ) -> None:
        if self._remembers:
            self.remembered[group[0]] = self._scale.undo_(self._layout.copy_of(gradients))
        if self.rows is not None:
            self._add_row(group[0], gradients)
            return
        alpha: Tensor | float = 1.0 if weighed else self._weights[group[0]]
        if self._scale.factor is not None:
            alpha = alpha / self._scale.factor
        if self.total is not None:
            self.total.add_(gradients, alpha)
        else:
            self.total = self._layout.copy_of(gradients)
            if isinstance(alpha, Tensor):
                self.total.mul_(alpha)
        self._ledger.note(group, self.stage, self.total.norm())

    def _add_row(self, task: str, gradients: list[Tensor | None]) -> None:
        row = self.row(task)
        vector = row if self._columns is None else self._layout.padded(self._columns.size)
        self._scale.undo_(vector.copy_(gradients))
        if self._columns is not None:
            for part, flat in zip(row.flats, vector.flats, strict=True):
                part.copy_(self._columns.scatter(flat))


def gradients_of(
    losses: Sequence[Tensor],
    parameters: Sequence[Parameter],
    seeds: Sequence[Tensor],
    *,
    retain: bool,
    partition: Partition,
    placement: Placement,
) -> list[Tensor | None]:
    """Differentiates a weighted sum of losses.

    Args:
        losses: The losses, with their graphs.
        parameters: The parameters.
        seeds: The losses' weights, in the losses' dtypes.
        retain: Whether the graph is to be used again.
        partition: For the parameters' names.
        placement: Where the parameters are.

    Returns:
        The gradients; None for parameters that the losses do not reach.

    Raises:
        ValueError: If a gradient is sparse or complex.
    """
    if not parameters:
        return []
    gradients = placement.differentiate(losses, parameters, seeds, retain=retain)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.layout is not torch.strided:
            raise ValueError(
                f"The gradient of parameter {partition.name(parameter)!r} is sparse "
                f"({gradient.layout}). Perturbations and task gradients need dense ones: make its "
                f"layer with sparse=False."
            )
        if gradient is not None and gradient.is_complex():
            raise ValueError(
                f"Parameter {partition.name(parameter)!r} is complex ({gradient.dtype}). Inner "
                f"products of task gradients need real ones: keep it as torch.view_as_real gives "
                f"it, and use torch.view_as_complex in the model."
            )
    return gradients


def accumulate(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], reached: Sequence[bool]
) -> None:
    """Adds to ``.grad`` of the parameters that were reached, as ``Tensor.backward`` does.

    Args:
        parameters: The parameters.
        gradients: Their gradients, which may become their ``.grad``.
        reached: Which of the parameters were reached.
    """
    sums, terms = [], []
    for parameter, gradient, here in zip(parameters, gradients, reached, strict=True):
        if not here:
            continue
        if parameter.grad is None:
            parameter.grad = assembled(gradient, parameter)
        else:
            sums.append(local(parameter.grad))
            terms.append(gradient)
    if sums:
        torch._foreach_add_(sums, terms)
