"""The task gradients of a batch at the representation: one backward pass, whatever K is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from samo.model import Cut, cut_of
from samo.tensors import Layout, Matrix, Vector

from ._finite import Guard
from ._setting import Setting
from ._task_gradients import AtParameters, Plan, TaskGradients, dense

At = Callable[[Callable[[], Any]], Any]
"""Calls a function with the parameters at a point."""


def here(compute: Callable[[], Any]) -> Any:
    """Calls a function with the parameters as they are."""
    return compute()


# The cotangents, in numbers, for which tasks are differentiated together although their graphs can
# be freed only one by one.
_TOGETHER = 1 << 20


def task_gradients(
    setting: Setting,
    shares: Mapping[str, float],
    guard: Guard,
    plan: Plan,
    losses: Mapping[str, Tensor],
    at: At = here,
) -> TaskGradients:
    """Creates the task gradients of a batch; weighted sums are at the parameters.

    Args:
        setting: What is common to the engine's steps.
        shares: This rank's share of each present task's samples.
        guard: The loss scale and the finite checks.
        plan: What is kept.
        losses: This rank's losses by task, with their graphs.
        at: Holds the parameters at the point of the losses.

    Returns:
        The task gradients, still to be collected.
    """
    if setting.level == "representation" and not setting.combiner.weighs_first:
        cut = _representation(setting, losses)
        if cut is not None:
            return AtRepresentation(setting, shares, guard, plan, cut, at)
    return AtParameters(setting, shares, guard, plan)


def _representation(setting: Setting, losses: Mapping[str, Tensor]) -> Cut | None:
    """Finds the cut; None if gradients must be compared at the parameters."""
    partition, placement, ranks = setting.partition, setting.world.placement, setting.world.ranks
    cut = cut_of(losses, placement.leaves(partition.shared))
    leaves = cut.leaves
    inner = sorted(set(range(len(cut.edges))) - set(leaves.values()))
    like = cut.like()
    # If all losses come out of one node, z = (l_1, .., l_K): all task gradients are orthogonal.
    least = 0 if cut.own_leaves else len(losses)
    hidden = bool(losses) and sum(like[number].numel() for number in inner) <= least
    refused = hidden or (bool(leaves) and not placement.whole)
    if ranks.size == 1:
        return None if refused else cut
    kinds = {(cut.edges[i][0].name(), like[i].dim(), like[i].dtype) for i in inner}
    digest = hashlib.sha256(repr(sorted(map(str, kinds))).encode()).digest()[:7]
    number = int.from_bytes(digest, "big")
    # A rank without losses agrees with any other.
    same = [number, -number] if losses else [-(1 << 60)] * 2
    facts = ranks.largest(torch.tensor([refused, bool(leaves), *same]))
    refused, direct, highest, lowest = facts.tolist()
    if refused or highest != -lowest:
        return None
    if direct:
        marks = ranks.largest(torch.tensor([id(p) in leaves for p in partition.shared])).tolist()
        cut.add_leaves([p for p, mark in zip(partition.shared, marks, strict=True) if mark])
    return cut


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
        cut: The representation.
        at: Holds the parameters at the point of the losses.
    """

    level = "representation"

    def __init__(
        self,
        setting: Setting,
        shares: Mapping[str, float],
        guard: Guard,
        plan: Plan,
        cut: Cut,
        at: At = here,
    ) -> None:
        super().__init__(setting, shares, guard, plan)
        self._cut, self._at, self._journal = cut, at, setting.journal
        self._losses: list[Tensor] = []  # if they are needed again
        self._dtype = setting.workspace.gradient_dtype

    def collect(self, tasks: Sequence[str], losses: dict[str, Tensor]) -> None:
        """Runs one backward pass down to z; ``tasks`` are all tasks that some rank has.

        The losses are taken out, so that their graphs can be freed.
        """
        cut, guard, placement = self._cut, self._guard, self._world.placement
        # Scaled float16 gradients would vanish when they are divided by the scale.
        like = cut.like(None if guard.factor is None else torch.float32)
        terms: list[dict[int, Tensor]] = [{} for _ in like]

        def receive(task: str, number: int, term: Tensor) -> None:
            found, i = terms[number], self._index[task]
            term = term.to(like[number].dtype)  # not changed in place: it may be used elsewhere
            found[i] = found[i] + term if i in found else term

        for group in self._groups(losses, like):
            seeds = {task: guard.seed(losses[task], self._shares[task]) for task in group}
            for task in group:
                if task in cut.roots:
                    receive(task, cut.roots[task], seeds[task])
            above = [task for task in group if task not in cut.roots]
            own = [parameter for task in above for parameter in self._own[task]]
            with cut.observed(above, receive, self._journal):
                found = placement.differentiate(
                    [losses[task] for task in above],
                    own,
                    [seeds[task] for task in above],
                    retain=cut.nested,
                    edges=cut.targets,
                )
            self._set_group(group, own, dense(found, own, self._partition))
            for task in group:
                loss = losses.pop(task)
                cut.above.pop(task, None)
                if not placement.whole and task in above:
                    self._losses.append(loss)
                del loss  # and its graph
        self._set_group([task for task in tasks if task not in self.sizes], [], [])
        self.rows = self._stacked(like, terms)

    def reduce(self) -> None:
        """Sums over the ranks what belongs to parameters: one rank has these columns then.

        The columns that belong to samples are on the ranks of these.
        """
        ranks, leaves, rows = self._world.ranks, self._cut.leaves, self.rows
        if ranks.size == 1 or not leaves or rows is None:
            return
        flats = [rows.flats[leaves[i]] for i in map(id, self._shared) if i in leaves]
        ranks.add_(flats)
        if ranks.rank > 0:
            for flat in flats:
                flat.zero_()

    def pull_back(self, combined: Vector) -> Vector:
        """Runs one backward pass from z, and sums over the ranks."""
        guard, world = self._guard, self._world
        gradients = self._at(partial(self._from_z, guard.scale_(combined).tensors))
        pairs = zip(self._shared, gradients, strict=True)
        self.reached.update(id(parameter) for parameter, g in pairs if g is not None)
        total = guard.unscale_(self._layout.copy_of(gradients))
        guard.check(self.present, self.plan.stage, total.norm())
        parameters = [*self._shared, *(p for own in self._own.values() for p in own)]
        ids = list(map(id, parameters))
        rest = [flat for vector in self.own.values() for flat in vector.flats]
        marks = [i in self.reached for i in ids]
        united = world.placement.reduce_(total.flats, rest, marks)
        self.reached = {i for i, mark in zip(ids, united, strict=True) if mark}
        return total

    def _groups(self, losses: Mapping[str, Tensor], like: Sequence[Tensor]) -> list[list[str]]:
        """Returns the tasks to differentiate together.

        A backward pass frees the tasks' own graphs, unless it visits shared nodes, which are needed
        again. Then large graphs are freed by dropping the losses, task by task.
        """
        tasks = list(losses)
        if not self._cut.nested or not self._world.placement.whole:
            return [tasks]
        size = max(1, _TOGETHER // max(1, sum(z.numel() for z in like)))
        return [tasks[start : start + size] for start in range(0, len(tasks), size)]

    def _set_group(
        self, group: Sequence[str], own: Sequence[Tensor], found: Sequence[Tensor | None]
    ) -> None:
        gradients = {id(p): g for p, g in zip(own, found, strict=True) if g is not None}
        self.reached.update(gradients)
        self.sizes.update(dict.fromkeys(group, 1.0))
        self._set_own({task: [gradients.get(id(p)) for p in self._own[task]] for task in group})

    def _stacked(self, like: Sequence[Tensor], terms: Sequence[dict[int, Tensor]]) -> Matrix:
        """Returns the matrix of the c_i, one block for each edge; frees the terms."""
        factor, ranks, k = self._guard.factor, self._world.ranks, len(self._index)
        # Each rank has the columns that belong to its samples.
        layout = Layout(like, ranks.total if ranks.size > 1 else None, apart=True)
        blocks = []
        for z, found in zip(like, terms, strict=True):
            zero = z if len(found) == k else torch.zeros_like(z)
            block = z.new_empty((k, z.numel()))
            out = block.view(k, *z.shape)  # in the order of z, whatever strides the terms have
            torch.stack([found.get(i, zero) for i in range(k)], out=out)
            found.clear()
            if factor is not None:
                block.mul_(1 / factor.to(block.device))
            blocks.append(block if self._dtype is None else block.to(self._dtype))
        return layout.matrix_over(blocks, k)

    def _from_z(self, cotangent: Sequence[Tensor]) -> list[Tensor | None]:
        """Multiplies a cotangent by the transposed Jacobian of z."""
        cut, leaves = self._cut, self._cut.leaves
        inner = sorted(set(range(len(cut.edges))) - set(leaves.values()))
        found = self._world.placement.pull_back(
            [cut.targets[i] for i in inner],
            self._shared,
            cut.cotangents([cotangent[i] for i in inner], inner),
            self._losses,
        )
        for i, parameter in enumerate(self._shared):
            if id(parameter) in leaves:  # itself a part of z
                (direct,) = cut.cotangents([cotangent[n := leaves[id(parameter)]]], [n])
                gradient = found[i]
                found[i] = direct if gradient is None else gradient + direct
        return dense(found, self._shared, self._partition)
