"""What a step tells its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepResult:
    """What one call of `Engine.backward` saw.

    Attributes:
        losses: The natural losses l_i(θ), by task, detached; means over the micro-batches. Tasks
            that were absent are left out, here and below.
        perturbed_losses: The losses l_i(θ + ε_i, φ_i + η_i) by task; None without a perturbation.
        weights: The weights of the tasks in the aggregate, in the order of ``losses``, of shape
            ``[K]``; where the aggregation is decomposed and made from gradients ``[2, K]``, of the
            loss gradients and of the flat gradients. None where the method has no weights.
        gramian: The inner products of the task gradients that were aggregated, ``[K, K]``, float64,
            on the CPU; where the aggregation is decomposed, of the loss gradients. None where no
            matrix of task gradients was made: the weights were known before.
        overflowed: Whether a loss or gradient was not finite in a step with a ``grad_scaler``. The
            gradients are then not finite, so that ``grad_scaler.step`` skips the step.
        ranks: The number of processes that took the step together. Losses, Gramian and weights are
            of their whole batch, and the same on all of them.
        sync_perturbation: Whether the ranks perturbed along one gradient; else each did along its
            own (m-sharpness), and the perturbed losses are means of losses at different points.
    """

    losses: Mapping[str, Tensor]
    perturbed_losses: Mapping[str, Tensor] | None = None
    weights: Tensor | None = field(default=None, repr=False)
    gramian: Tensor | None = field(default=None, repr=False)
    overflowed: bool = False
    ranks: int = 1
    sync_perturbation: bool = True

    @property
    def sharpness(self) -> dict[str, Tensor] | None:
        """Perturbed minus natural loss, by task; None without a perturbation."""
        if self.perturbed_losses is None:
            return None
        return {t: loss - self.losses[t] for t, loss in self.perturbed_losses.items()}

    @property
    def conflicts(self) -> float | None:
        """The share of task pairs whose gradients have a negative inner product.

        None without a Gramian, and with fewer than two tasks.
        """
        if self.gramian is None or (k := len(self.gramian)) < 2:
            return None
        return (self.gramian.triu(1) < 0).sum().item() / (k * (k - 1) / 2)


class Means:
    """Means of the tasks' losses over the micro-batches, weighted by their sizes.

    Args:
        tasks: The names of the tasks.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._found: dict[str, list[tuple[Tensor, float]]] = {task: [] for task in tasks}

    def add(self, losses: Mapping[str, Tensor], sizes: Mapping[str, float]) -> None:
        """Takes in the losses of a micro-batch."""
        for task, loss in losses.items():
            self._found[task].append((loss, sizes[task]))

    def values(self) -> dict[str, Tensor]:
        """The means, by task in the order of the tasks."""
        means = {}
        for task, found in self._found.items():
            if len(found) == 1:
                means[task] = found[0][0]
            elif found:
                total = sum(size for _, size in found)
                means[task] = torch.stack([loss * (size / total) for loss, size in found]).sum()
        return means
