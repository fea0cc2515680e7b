"""What an ascent answers to an estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from samo.distributed._placement import Fill
from samo.model._random import rademacher_
from samo.model._trace import displaced
from samo.perturbations._base import Noise
from samo.tensors._vector import Vector, wide

if TYPE_CHECKING:
    from samo.engine._ascent import Ascent


class TaskProbe:
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
        self.loss = self._mean_of(ascent.agreed.means)

    @property
    def names(self) -> list[str]:
        return [self._ascent.partition.name(p) for p in self._ascent.shared]

    @property
    def mean(self) -> Vector:
        return self._ascent.mean

    @property
    def mean_norms(self) -> list[Tensor]:
        return self._ascent.mean_norms

    def draw(self, noise: Noise) -> Vector:
        ascent, vector = self._ascent, self._ascent.fresh()
        ascent.placement.fill(vector, ascent.shared, ascent.streams, _FILL[noise])
        return ascent.masked(vector)

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        ascent = self._ascent
        here = [task for task in self._tasks if task in ascent.losses]
        losses: dict[str, Tensor] = {}
        if here:
            with displaced([(ascent.point, direction)], step), torch.no_grad():
                # Copies, since a loss may be a parameter.
                found = ascent.evaluate(here)
                losses = {task: loss.detach().clone() for task, loss in found.items()}
        loss = self._mean_of(ascent.ranks.means(self._tasks, losses, ascent.agreed.shares))
        ascent.ledger.note(self._tasks, "loss at a probing point", loss)
        return loss

    def gradient(self, tensors: Sequence[int] | None = None) -> Vector:
        ascent = self._ascent
        chosen = range(len(ascent.shared)) if tensors is None else tensors
        gradient, weight = ascent.fresh(), 1 / len(self._tasks)
        if not ascent.rows:
            ascent.differentiate(self._tasks, weight, gradient, chosen, retain=not self._last)
            return gradient
        for number, task in enumerate(self._tasks):
            row, factor = ascent.rows[task]
            parts = [row[i] if i in chosen else None for i in range(len(row))]
            if number == 0:
                gradient.copy_(parts).mul_(factor * weight)
            else:
                gradient.add_(parts, factor * weight)
        return gradient

    def from_the_loss(self) -> list[int]:
        return self._ascent.from_the_loss

    def _mean_of(self, losses: Mapping[str, Tensor]) -> Tensor:
        first = losses[self.task]
        total = first.to(wide(first.dtype))
        for task in self._tasks[1:]:
            total = total + losses[task].to(total)
        return total / len(self._tasks) if len(self._tasks) > 1 else total


_FILL: dict[Noise, Fill] = {
    "gaussian": lambda flat, generator: flat.normal_(generator=generator),
    "rademacher": rademacher_,
}
