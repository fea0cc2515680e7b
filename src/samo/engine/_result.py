"""The result of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ._setting import Level


@dataclass(frozen=True)
class StepResult:
    """The result of one call of `Engine.backward`.

    Attributes:
        losses: The natural losses l_i(θ) by task, detached; means over the micro-batches. Absent
            tasks are omitted, here and below. With `Momentum`, the losses at the displaced point.
        perturbed_losses: The losses l_i(θ + ε_i, φ_i + η_i) by task; None without a `Perturbation`.
        weights: The weights of the tasks in the aggregate, in the order of ``losses``, of shape
            ``[K]``; ``[2, K]`` if the aggregation is decomposed and needs the gradients: one row
            for the loss gradients, one for the flat gradients. None if the method has no weights.
        gramian: The inner products of the aggregated task gradients, ``[K, K]``, float64, on the
            CPU; of the loss gradients if the aggregation is decomposed. None if the weights were
            known before the gradients, so no matrix was computed.
        level: Where the task gradients were compared; None if they were not. With
            ``level="representation"``, an engine compares them at the parameters if the batch has
            no representation: the tasks share parameters but no tensor (each has its own inputs),
            all losses come out of one node (a compiled function, a tensor of losses), the tasks of
            one rank share other tensors than those of another, or a task uses a shared parameter
            of a sharded model in its own part.
        overflowed: Whether a loss or gradient was not finite in a step with a ``grad_scaler``. The
            gradients are then not finite, so ``grad_scaler.step`` skips the step.
        ranks: The number of processes that took the step together. Losses, Gramian and weights are
            those of the whole batch, identical on all ranks.
        sync_perturbation: Whether the ranks perturbed along one gradient. If False, each perturbed
            along its own (m-sharpness), and perturbed losses are means over different points.
    """

    losses: Mapping[str, Tensor]
    perturbed_losses: Mapping[str, Tensor] | None = None
    weights: Tensor | None = field(default=None, repr=False)
    gramian: Tensor | None = field(default=None, repr=False)
    level: Level | None = None
    overflowed: bool = False
    ranks: int = 1
    sync_perturbation: bool = True

    @property
    def sharpness(self) -> dict[str, Tensor] | None:
        """Perturbed minus natural loss, by task; None without a `Perturbation`."""
        if self.perturbed_losses is None:
            return None
        return {t: loss - self.losses[t] for t, loss in self.perturbed_losses.items()}

    @property
    def conflicts(self) -> float | None:
        """The fraction of task pairs whose gradients have a negative inner product.

        None without a Gramian, or for fewer than two tasks.
        """
        if self.gramian is None or (k := len(self.gramian)) < 2:
            return None
        return (self.gramian.triu(1) < 0).sum().item() / (k * (k - 1) / 2)
