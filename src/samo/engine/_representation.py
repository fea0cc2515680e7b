"""The task gradients of a batch at the representation: one backward pass, whatever K is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from samo.model import Cut, cut_of
from samo.tensors import Layout, Vector

from ._finite import Guard
from ._setting import Setting
from ._task_gradients import Plan, TaskGradients

At = Callable[[], AbstractContextManager[None]]
"""Holds the parameters at a point."""


class AtRepresentation(TaskGradients):
    r"""Gradients of the tasks' losses with respect to the representation z: a K × dim(z) matrix.

    With :math:`c_i = \partial l_i / \partial z`, the gradient of any weighted sum of the losses is

    .. math::
        \sum_i w_i \nabla_\theta l_i = (\partial z / \partial \theta)^\top \sum_i w_i c_i

    One backward pass from the losses down to z gives all c_i and the gradients of the own
    parameters, one from z down gives the gradient of the shared parameters.

    Args:
        setting: What is common to the engine's steps.
        shares: This rank's share of each present task's samples.
        guard: The loss scale and the finite checks.
        plan: What is kept.
        at: Holds the parameters at the point of the losses.
    """

    def __init__(
        self,
        setting: Setting,
        shares: Mapping[str, float],
        guard: Guard,
        plan: Plan,
        at: At = nullcontext,
    ) -> None:
        super().__init__(setting, shares, guard, plan)
        self._at = at
        self._cut = Cut([], [], {})

    def collect(self, tasks: Sequence[str], losses: Mapping[str, Tensor]) -> None:
        """Runs one backward pass down to z; ``tasks`` are all tasks that some rank has."""
        guard, ranks = self._guard, self._world.ranks
        self._cut = cut = cut_of(losses, {id(parameter) for parameter in self._shared})
        # Each rank has the rows' columns that belong to its samples.
        layout = Layout(cut.like(), ranks.total if ranks.size > 1 else None)
        rows = self.rows = layout.matrix(len(self._index))
        vectors = {task: rows.rows[i].tensors for task, i in self._index.items()}
        seeds = {task: guard.seed(loss, self._shares[task]) for task, loss in losses.items()}
        for task, number in cut.roots.items():
            vectors[task][number].add_(seeds[task])
        above = [task for task in losses if task not in cut.roots]
        own = [parameter for task in above for parameter in self._own[task]]
        targets: list[Any] = [*own, *cut.targets]
        gradients: dict[int, Tensor] = {}
        if above and targets:
            with cut.observed(lambda task, number, term: vectors[task][number].add_(term)):
                found = torch.autograd.grad(
                    [losses[task] for task in above],
                    targets,
                    [seeds[task] for task in above],
                    retain_graph=True,
                    allow_unused=True,
                )
            gradients = {id(p): g for p, g in zip(own, found, strict=False) if g is not None}
        self.reached.update(gradients)
        for task in tasks:
            self.sizes[task] = 1.0
            self._set_own(task, [gradients.get(id(p)) for p in self._own[task]])
        if guard.factor is not None:
            for flat in rows.flats:
                flat.mul_(1 / guard.factor.to(flat.device))

    def reduce(self) -> None:
        """Does nothing: the Gramian is summed over the ranks when it is computed."""

    def pull_back(self, combined: Vector) -> Vector:
        """Runs one backward pass from z, and sums over the ranks."""
        with self._at():
            gradients = self._cut.pull_back(combined.tensors, self._shared)
        self.reached.update(
            id(parameter)
            for parameter, gradient in zip(self._shared, gradients, strict=True)
            if gradient is not None
        )
        total = self._layout.copy_of(gradients)
        self._guard.check(self.present, self.plan.stage, total.norm())
        parameters = [*self._shared, *(p for own in self._own.values() for p in own)]
        ids = list(map(id, parameters))
        rest = [flat for vector in self.own.values() for flat in vector.flats]
        marks = [i in self.reached for i in ids]
        united = self._world.placement.reduce_(total.flats, rest, marks)
        self.reached = {i for i, mark in zip(ids, united, strict=True) if mark}
        return total
