"""The mean gradients of groups of similar tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from samo.tensors import Vector, wide

from ._estimator import LocalGradient, Probe

# The length of the sketches by which gradients are compared. The inner product of the sketches of
# two unit vectors has a standard error of 1/√4096 = 0.016; it is exact for shorter gradients.
_SKETCH_LENGTH = 4096


class TaskGroups(LocalGradient):
    r"""ĝ_i = the exact mean gradient of the tasks similar to task i, which share one point.

    .. math::
        \hat g_i = \frac{1}{|G|} \sum_{j \in G} \nabla_\theta l_j, \qquad i \in G

    with the K tasks divided into M groups G. A step costs M backward passes on the natural graph
    and M perturbed forward passes instead of K: it is between `GSAM` (M = 1) and `ExactGradient`
    (M ≥ K). If the task gradients are orthogonal and of equal norm, the cosine of ĝ_i with ∇l_i is
    about :math:`\sqrt{M/K}` for any groups; it is larger for groups of similar tasks.

    Tasks are similar if their natural gradients are: the two groups whose tasks have the largest
    mean cosine are merged until M are left (average linkage). This takes one backward pass per
    task, at every n-th step only, and no matrix of K gradients: gradients are compared by sketches,
    4,096 sums of their coordinates with random signs, which preserve inner products on average.
    (Grouping tasks by the effect of their gradients on each other: TAG, arXiv 2109.04617. By random
    projections of gradients: Grad-TAG, arXiv 2409.06091. Both choose which tasks to train together;
    sharing a perturbation within a group is specific to this package.)

    Args:
        groups: The number M of groups, >= 1; with M ≥ K each task is its own group.
        every: The number n of steps for which groups are kept, >= 1; micro-batches count as steps.
            Groups are also recomputed when a task without a group appears.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.05, alpha=0.0, local=samo.TaskGroups(8)).local
        TaskGroups(groups=8, every=100)
    """

    exact: ClassVar[bool] = True
    uses_mean: ClassVar[bool] = False
    groups_tasks: ClassVar[bool] = True
    stateful: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("fifty2021tag", "li2024gradtag")

    def __init__(self, groups: int = 4, every: int = 100) -> None:
        for argument, value in (("groups", groups), ("every", every)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{argument} must be an integer of at least 1; found {value!r}.")
        self.groups = groups
        self.every = every
        self._known: list[list[str]] = []
        self._age = 0

    def estimate(self, probe: Probe) -> Vector:
        """Returns the gradient of the group's mean loss."""
        return probe.gradient()

    def group(self, probes: Mapping[str, Probe]) -> list[list[str]]:
        """Divides the tasks that are present; the last division is reused for ``every`` steps."""
        tasks = list(probes)
        if len(tasks) <= self.groups:
            return [[task] for task in tasks]
        if self.groups == 1:
            return [tasks]
        if self._age % self.every == 0 or not set(tasks) <= {t for g in self._known for t in g}:
            divided = joined(_cosines(list(probes.values())), self.groups)
            self._known = [[tasks[i] for i in group] for group in divided]
            self._age = 0
        self._age += 1
        present = [[task for task in group if task in probes] for group in self._known]
        return [group for group in present if group]

    def state_dict(self) -> dict[str, Any]:
        """Returns the groups, and the number of steps since they were computed."""
        return {"groups": [list(group) for group in self._known], "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._known = [list(group) for group in state["groups"]]
        self._age = state["age"]

    def __repr__(self) -> str:
        return f"TaskGroups(groups={self.groups}, every={self.every})"


def _cosines(probes: Sequence[Probe]) -> Tensor:
    """Returns the cosines of the tasks' gradients, up to the error of the sketches: ``[K, K]``."""
    signs = probes[0].draw("rademacher")
    sketches = torch.stack([sketch(probe.gradient(), signs) for probe in probes])
    unit = F.normalize(sketches)
    return unit @ unit.T


def sketch(vector: Vector, signs: Vector) -> Tensor:
    """Returns sums of coordinates with random signs, in float64 on the CPU: ``[4096]``."""
    total = torch.zeros(_SKETCH_LENGTH, dtype=torch.float64)
    for flat, sign in zip(vector.flats, signs.flats, strict=True):
        signed = F.pad(flat * sign, (0, -flat.numel() % _SKETCH_LENGTH)).view(-1, _SKETCH_LENGTH)
        total += signed.sum(0, dtype=wide(flat.dtype)).cpu()
    global_sum = vector.layout.global_sum
    return total if global_sum is None else global_sum(total)


def joined(likeness: Tensor, count: int) -> list[list[int]]:
    """Merges the two most similar groups (average linkage) until ``count`` are left.

    Args:
        likeness: The similarity of each pair, symmetric: ``[K, K]``.
        count: The number of groups.

    Returns:
        The groups, sorted, in the order of their first members.

    Example:
        >>> joined(torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]]), 2)
        [[0, 2], [1]]
    """
    groups = [[i] for i in range(len(likeness))]
    sums = likeness.clone()
    while len(groups) > count:
        sizes = torch.tensor([float(len(group)) for group in groups], dtype=sums.dtype)
        means = (sums / sizes.outer(sizes)).triu(1)
        means[torch.ones_like(means).tril().bool()] = -torch.inf
        first, second = divmod(int(means.nan_to_num(-torch.inf).argmax()), len(groups))
        sums[first] += sums[second]
        sums[:, first] += sums[:, second]
        left = [i for i in range(len(groups)) if i != second]
        groups[first] += groups[second]
        groups, sums = [groups[i] for i in left], sums[left][:, left]
    return [sorted(group) for group in groups]
