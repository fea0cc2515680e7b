"""From the task gradients to one update: matrices, weights, sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samo.aggregation._combiner import (
    Combiner,
    WeightsFirst,
    WeightsOfGramian,
    WeightsOfLosses,
    WholeMatrix,
)
from samo.engine._finite import Ledger
from samo.engine._result import Means
from samo.engine._rows import Scale, TaskGradients
from samo.engine._setting import Setting
from samo.model._modes import undisturbed
from samo.tensors._vector import Layout, Matrix, Vector, wide, widest


@dataclass
class Part:
    """A sum that the update is made of.

    Attributes:
        combiner: What combines the rows.
        rows: Gradients of the present tasks.
        stage: What they are called in an error.
        gramian: Their inner products, on the CPU in the end; None where they are not needed.
    """

    combiner: Combiner
    rows: Matrix
    stage: str
    gramian: Tensor | None = None

    @property
    def sizes(self) -> Sequence[Tensor]:
        """A number for each row that is finite where the row is: its norm, or the square of it."""
        if self.gramian is None:
            return [row.norm() for row in self.rows.rows]
        return list(self.gramian.diagonal())


class Aggregation:
    """The aggregation of one step.

    Args:
        setting: What is the engine's.
        scale: The factor on losses before backward passes.
        ledger: Where to enter what must be finite.
        losses: The natural losses, as they are known by now.

    Attributes:
        weights: The tasks' weights, where there are any.
        gramian: The Gramian, where one was made.
        method_gradients: The gradients of the method's own parameters, where it has any.
        bring_back: What brings the methods back to where they were before the step.
    """

    def __init__(self, setting: Setting, scale: Scale, ledger: Ledger, losses: Means) -> None:
        self._setting = setting
        self._scale = scale
        self._ledger = ledger
        self._losses = losses
        self._parts: list[Part] = []
        self.weights: Tensor | None = None
        self.gramian: Tensor | None = None
        self.method_gradients: list[Tensor | None] = []
        self.bring_back: list[Callable[[], None]] = []

    def weigh(self, gradients: TaskGradients | None = None) -> Tensor | None:
        """Finds the weights of a method that needs the losses at most.

        Args:
            gradients: Own gradients that were made before and are to be multiplied by them.

        Returns:
            The weights; None where the method needs the gradients.
        """
        setting, combiner = self._setting, self._setting.combiner
        if not isinstance(combiner, WeightsFirst):
            return None
        if combiner.sized:
            self._ledger.verify()  # a loss that is not finite must not get into the method's state
        means, losses = list(self._losses.values()), self._natural_losses()
        if isinstance(combiner, WeightsOfLosses):
            self.bring_back.append(combiner.bookmark())
        with undisturbed(setting.streams, [losses]):
            self.weights, self.method_gradients = combiner.weights(losses, self._numbers(means))
        self._ledger.note(means, "weight", self.weights.sum())
        if gradients is not None and isinstance(combiner, WeightsOfLosses):
            _multiply_own(gradients, means, self.weights)
        return self.weights

    def prepare(self, gradients: TaskGradients, natural: TaskGradients | None) -> None:
        """Makes the matrices to combine; what the CPU must know is brought there all at once.

        Args:
            gradients: The gradients at the perturbed points, of all micro-batches and ranks.
            natural: Those at the natural point, where the two are aggregated apart.
        """
        setting, here = self._setting, self._numbers(gradients.present)
        if gradients.rows is not None and setting.partition.shared:
            rows = gradients.rows.select(here)
            if natural is None:
                self._parts = [Part(setting.combiner, rows, gradients.stage)]
            else:
                assert natural.rows is not None
                assert setting.flat_combiner is not None
                of_losses = natural.rows.select(here)
                flat = rows.sub_(of_losses)
                self._parts = [
                    Part(setting.combiner, of_losses, natural.stage),
                    Part(setting.flat_combiner, flat, gradients.stage),
                ]
        compared = [part for part in self._parts if not isinstance(part.combiner, WeightsFirst)]
        gramians = self._ledger.bring([part.rows.gramian() for part in compared])
        for part, gramian in zip(compared, gramians, strict=True):
            part.gramian = gramian
        for part in self._parts:
            for task, size in zip(gradients.present, part.sizes, strict=True):
                self._ledger.note([task], part.stage, size)

    def update(self, gradients: TaskGradients) -> Vector:
        """Makes one gradient of the tasks'.

        Args:
            gradients: The gradients, prepared.

        Returns:
            The gradient of the shared parameters; those of the own ones are weighted in place.
        """
        self._tell(gradients)
        if gradients.rows is None:
            assert gradients.total is not None
            update = gradients.total
        elif not self._setting.partition.shared:
            update = Layout([]).empty()
            self.weigh(gradients)
        else:
            combined = [self._combine(part, gradients) for part in self._parts]
            update, self.weights = combined[0]
            for other, weights in combined[1:]:
                update.add_(other.tensors)
                if self.weights is not None and weights is not None:
                    self.weights = torch.stack([self.weights, weights])
            update = gradients.whole(update)
            self.gramian = self._parts[0].gramian
        if self.weights is not None:
            self._ledger.note(gradients.present, "weight", self.weights.sum())
        self._ledger.verify()
        return update

    def _tell(self, gradients: TaskGradients) -> None:
        """Tells methods of the gradients the losses, and scales own gradients as they say."""
        setting = self._setting
        for combiner in (setting.combiner, setting.flat_combiner):
            if combiner is None or isinstance(combiner, WeightsFirst):
                continue
            # With a grad scaler the update may yet overflow, when all is learnt. Without, the state
            # of methods of whole matrices is left alone, which may be as large as the rows.
            learns = combiner.sees_losses and isinstance(combiner, WeightsOfGramian)
            if learns or self._scale.factor is not None:
                self.bring_back.append(combiner.bookmark())
            if not combiner.sees_losses:
                continue
            here = self._numbers(gradients.present)
            factors, of_method = combiner.tell(self._natural_losses(), here)
            if combiner is setting.flat_combiner or factors is None:
                continue
            self.method_gradients = of_method
            self._ledger.note(gradients.present, "weight", factors.sum())
            _multiply_own(gradients, gradients.present, factors)

    def _combine(self, part: Part, gradients: TaskGradients) -> tuple[Vector, Tensor | None]:
        combiner, rows, streams = part.combiner, part.rows, self._setting.streams
        here = self._numbers(gradients.present)
        if isinstance(combiner, WeightsFirst):
            weights = self.weigh(gradients)
            assert weights is not None
            return rows.combine(weights), weights
        if isinstance(combiner, WeightsOfGramian):
            assert part.gramian is not None
            with undisturbed(streams, []):
                weights = combiner.weights(part.gramian, here)
            return rows.combine(weights), weights
        assert isinstance(combiner, WholeMatrix)
        with undisturbed(streams, rows.flats):
            combined, of_matrix = combiner.combine(rows.whole(), here)
        return rows.layout.over(combined), of_matrix

    def _natural_losses(self) -> Tensor:
        """The natural losses of the present tasks, in float32 or wider."""
        means = list(self._losses.values().values())
        dtype = wide(widest(means))
        return torch.stack([loss.to(dtype) for loss in means])

    def _numbers(self, tasks: Sequence[str]) -> list[int]:
        return [self._setting.tasks.index(task) for task in tasks]


def _multiply_own(gradients: TaskGradients, tasks: Sequence[str], factors: Tensor) -> None:
    for task, factor in zip(tasks, factors, strict=True):
        if task in gradients.own:
            gradients.own[task].mul_(factor)
