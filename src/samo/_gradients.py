"""The task gradients of a step, kept in as little room as the aggregation allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from ._ledger import Ledger
from ._partition import Partition
from ._vector import Matrix, Vector
from ._workspace import Workspace


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
        tasks: All tasks, in the order of the rows.
        workspace: The storage.
        use: Which of the workspace's matrices to use.
        weights: The weights of the present tasks if they are known already, by task.
        weighs_own: Whether the weights apply to the tasks' own parameters as well.
        remembers: Whether each task's gradient is to be kept by itself as well.
    """

    def __init__(
        self,
        partition: Partition,
        tasks: Sequence[str],
        workspace: Workspace,
        use: str,
        *,
        weights: Mapping[str, Tensor] | None = None,
        weighs_own: bool = False,
        remembers: bool = False,
    ) -> None:
        self._partition = partition
        self._shared, self._own = partition.shared, partition.own
        self._index = {task: i for i, task in enumerate(tasks)}
        self._weights = weights or {}
        self._weighs_own = weighs_own
        self._remembers = remembers
        self._layout = workspace.layout("shared", self._shared)
        self._own_layouts = {
            task: workspace.layout(f"own of {task}", own) for task, own in self._own.items()
        }
        self.rows: Matrix | None = None
        self.total: Vector | None = None
        if weights is None:
            self.rows = workspace.matrix(use, self._layout, len(tasks))
        else:
            self.total = self._layout.zeros()
        self.own: dict[str, Vector] = {}
        self.remembered: dict[str, Vector] = {}
        self.reached: set[int] = set()
        self.counts: Counter[str] = Counter()

    @property
    def present(self) -> list[str]:
        """The tasks that have a gradient, in the order of the rows."""
        return [task for task in self._index if task in self.counts]

    def row(self, task: str) -> Vector:
        """The gradient of a task with respect to the shared parameters, where rows are kept."""
        assert self.rows is not None
        return self.rows.rows[self._index[task]]

    def collect(self, losses: Mapping[str, Tensor], scale: Scale, ledger: Ledger, at: str) -> None:
        """Adds the gradients of some losses.

        Args:
            losses: The losses by task, with their graphs, which are used up.
            scale: The factor on the losses.
            ledger: Where to enter what must be finite.
            at: What the losses are called in an error: "natural" or "perturbed".
        """
        together = self._weighs_own and not self._remembers
        groups = [list(losses)] if together else [[task] for task in losses]
        for group in groups:
            shared, own = self._backward(
                [losses[task] for task in group],
                [scale.seed(losses[t], self._weights[t] if together else 1.0) for t in group],
                group,
                retain=group is not groups[-1],
            )
            for task in group:
                self.counts[task] += 1
                self._add_own(task, own[task], scale, ledger, at, weighed=together)
            self._add_shared(group, shared, scale, ledger, at, weighed=together)

    def merge(self, earlier: TaskGradients) -> None:
        """Adds the gradients of the micro-batches before.

        Parameters that these did not reach, or that fewer tasks reached, may have found their part
        since.
        """
        for task in earlier.counts:
            found = dict(zip(map(id, earlier._shared), earlier.row(task).tensors, strict=True))
            if task in earlier.own:
                own = zip(map(id, earlier._own[task]), earlier.own[task].tensors, strict=True)
                found.update(own)
            shared = [found.get(id(parameter)) for parameter in self._shared]
            if task in self.counts:
                self.row(task).add_(shared)
            else:
                self.row(task).copy_(shared)
            if self._own[task]:
                mine = self.own.setdefault(task, self._own_layouts[task].zeros())
                mine.add_([found.get(id(parameter)) for parameter in self._own[task]])
            if task in earlier.remembered:
                self.remembered.setdefault(task, self._layout.zeros()).add_(shared)
        self.reached |= earlier.reached
        self.counts += earlier.counts

    def average(self) -> None:
        """Divides each task's sum by the number of micro-batches that it was present in."""
        for task, count in self.counts.items():
            if count > 1:
                if self.rows is not None:
                    self.row(task).mul_(1 / count)
                for vectors in (self.own, self.remembered):
                    if task in vectors:
                        vectors[task].mul_(1 / count)

    def _backward(
        self, losses: list[Tensor], seeds: list[Tensor], group: list[str], *, retain: bool
    ) -> tuple[list[Tensor | None], dict[str, list[Tensor | None]]]:
        own = {task: self._own[task] for task in group}
        gradients = gradients_of(
            losses,
            [*self._shared, *(p for ps in own.values() for p in ps)],
            seeds,
            retain=retain,
            partition=self._partition,
        )
        at = len(self._shared)
        shared, parts = gradients[:at], {}
        for task, parameters in own.items():
            parts[task] = gradients[at : at + len(parameters)]
            at += len(parameters)
        return shared, parts

    def _add_own(
        self,
        task: str,
        gradients: list[Tensor | None],
        scale: Scale,
        ledger: Ledger,
        at: str,
        *,
        weighed: bool,
    ) -> None:
        parameters = self._own[task]
        if not parameters:
            return
        vector = scale.undo_(self._own_layouts[task].copy_of(gradients))
        ledger.note([task], f"{at} gradient", vector.norm())
        if self._weighs_own and not weighed:
            vector.mul_(self._weights[task])
        self.own[task] = vector
        self.reached |= _ids(parameters, gradients)

    def _add_shared(
        self,
        group: list[str],
        gradients: list[Tensor | None],
        scale: Scale,
        ledger: Ledger,
        at: str,
        *,
        weighed: bool,
    ) -> None:
        parameters = self._shared
        self.reached |= _ids(parameters, gradients)
        if not parameters:
            return
        if self._remembers:
            self.remembered[group[0]] = scale.undo_(self._layout.copy_of(gradients))
        if self.rows is not None:
            row = scale.undo_(self.row(group[0]).copy_(gradients))
            ledger.note(group, f"{at} gradient", row.norm())
            return
        assert self.total is not None
        alpha: Tensor | float = 1.0 if weighed else self._weights[group[0]]
        if scale.factor is not None:
            alpha = alpha / scale.factor
        self.total.add_(gradients, alpha)
        ledger.note(group, f"{at} gradient", self.total.norm())


def gradients_of(
    losses: Sequence[Tensor],
    parameters: Sequence[Parameter],
    seeds: Sequence[Tensor],
    *,
    retain: bool,
    partition: Partition,
) -> list[Tensor | None]:
    """Differentiates a weighted sum of losses.

    Args:
        losses: The losses, with their graphs.
        parameters: The parameters.
        seeds: The losses' weights, in the losses' dtypes.
        retain: Whether the graph is to be used again.
        partition: For the parameters' names.

    Returns:
        The gradients; None for parameters that the losses do not reach.

    Raises:
        ValueError: If a gradient is sparse or complex.
    """
    if not parameters:
        return []
    gradients = torch.autograd.grad(
        losses, parameters, seeds, retain_graph=retain, allow_unused=True
    )
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
    return list(gradients)


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
            parameter.grad = gradient
        else:
            sums.append(parameter.grad)
            terms.append(gradient)
    if sums:
        torch._foreach_add_(sums, terms)


def _ids(parameters: Sequence[Parameter], gradients: Sequence[Tensor | None]) -> set[int]:
    return {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
