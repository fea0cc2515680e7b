"""Aggregation: from the task gradients to one update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from samo.aggregation import Combiner
from samo.tensors import Layout, Matrix, Vector, wide, widest

from ._finite import Guard
from ._setting import Setting
from ._task_gradients import AtParameters, TaskGradients


@dataclass
class Update:
    """The result of an aggregation.

    Attributes:
        shared: The gradient of the shared parameters.
        weights: The tasks' weights, if the method has weights.
        gramian: The Gramian of the task gradients, if one was computed.
        of_method: The gradients of the method's own parameters, if it has any.
    """

    shared: Vector
    weights: Tensor | None = None
    gramian: Tensor | None = None
    of_method: list[Tensor | None] = field(default_factory=list)


@dataclass
class Part:
    """One term of the update, which has two terms if the aggregation is decomposed.

    Attributes:
        combiner: Combines the rows.
        rows: The gradients of the present tasks.
        gramian: Their inner products, on the CPU; None if they are not needed.
    """

    combiner: Combiner
    rows: Matrix
    gramian: Tensor | None


def known_weights(
    setting: Setting, guard: Guard, losses: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """Returns the weights of a method that needs no gradients, and its parameters' gradients."""
    combiner = setting.combiner
    first = next(iter(losses.values()))
    if (constant := combiner.constant_weights(len(losses), first.device)) is not None:
        return constant, []
    if combiner.sized:
        guard.verify()  # a loss that is not finite must not enter the method's state
    values = _stacked(losses)
    setting.journal.note(combiner.bookmark())
    present = [setting.tasks.index(task) for task in losses]
    weigh = partial(combiner.weigh, values, present)
    weights, of_method = setting.world.streams.as_global([values.device], weigh, setting.journal)
    guard.check(list(losses), "weight", weights.sum())
    return weights, of_method


def compare(
    setting: Setting, guard: Guard, gradients: TaskGradients, natural: AtParameters | None
) -> list[Part]:
    """Computes the rows to combine and their Gramians, with a single transfer to the CPU."""
    if gradients.rows is None or not setting.partition.shared:
        guard.verify()
        return []
    rows = gradients.rows.select(gradients.numbers)
    found = [(setting.combiner, rows, gradients.plan.stage)]
    if natural is not None:
        assert natural.rows is not None
        assert setting.flat_combiner is not None
        of_losses = natural.rows.select(gradients.numbers)
        flat = rows.sub_(of_losses)
        found = [
            (setting.combiner, of_losses, natural.plan.stage),
            (setting.flat_combiner, flat, gradients.plan.stage),
        ]
    compared = [rows.gramian() for combiner, rows, _ in found if not combiner.weighs_first]
    gramians = iter(guard.to_cpu(compared))
    parts = []
    for combiner, rows, stage in found:
        gramian = None if combiner.weighs_first else next(gramians)
        if gramian is None:
            for task, row in zip(gradients.present, rows.rows, strict=True):
                guard.check([task], stage, row.norm())
        elif not math.isfinite(gramian.trace().item()):
            for task, square in zip(gradients.present, gramian.diagonal(), strict=True):
                guard.check([task], stage, square)
        parts.append(Part(combiner, rows, gramian))
    return parts


def combine(
    setting: Setting, parts: Sequence[Part], gradients: TaskGradients, weights: Tensor | None
) -> Update:
    """Combines the rows of the parts; ``weights`` are those known before the gradients."""
    combined = [_combined(setting, part, gradients, weights) for part in parts]
    shared, weights = combined[0]
    for other, its in combined[1:]:
        shared.add_(other.tensors)
        if weights is not None and its is not None:
            weights = torch.stack([weights, its])
    return Update(gradients.pull_back(shared), weights, parts[0].gramian)


def tell(
    setting: Setting, guard: Guard, gradients: TaskGradients, losses: Mapping[str, Tensor]
) -> list[Tensor | None]:
    """Passes the losses to methods that need them; returns the methods' parameters' gradients."""
    of_method: list[Tensor | None] = []
    for combiner in (setting.combiner, setting.flat_combiner):
        if combiner is None or combiner.weighs_first:
            continue
        setting.journal.note(combiner.bookmark())
        if not combiner.sees_losses:
            continue
        factors, its = combiner.tell(_stacked(losses), gradients.numbers)
        if combiner is setting.combiner and factors is not None:
            of_method = its
            guard.check(gradients.present, "weight", factors.sum())
            gradients.multiply_own(factors)
    return of_method


def nothing_shared() -> Vector:
    """Returns the empty gradient of a model without shared parameters."""
    return Layout([]).empty()


def _combined(
    setting: Setting, part: Part, gradients: TaskGradients, weights: Tensor | None
) -> tuple[Vector, Tensor | None]:
    combiner, rows = part.combiner, part.rows
    if combiner.weighs_first:
        assert weights is not None
        return rows.combine(weights), weights
    assert part.gramian is not None
    devices = [flat.device for flat in rows.flats] if combiner.whole_rows else []
    call = partial(combiner.combine, rows, part.gramian, gradients.numbers)
    return setting.world.streams.as_global(devices, call, setting.journal)


def _stacked(losses: Mapping[str, Tensor]) -> Tensor:
    """Returns the losses as one tensor, in float32 or wider."""
    values = list(losses.values())
    if len({loss.dtype for loss in values}) > 1:
        dtype = widest(values)
        values = [loss.to(dtype) for loss in values]
    stacked = torch.stack(values)
    return stacked.to(wide(stacked.dtype))
