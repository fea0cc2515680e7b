"""Means of the results of several steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine import StepResult


class StepMeans:
    """Means of losses, sharpness, weights, gradient norms and conflicts over several steps.

    The means of a task are over the steps in which it was present. `add` only keeps references: all
    computation and synchronization with the device is in `take`.
    """

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._weights: list[tuple[tuple[str, ...], Tensor]] = []
        self._sharpness: defaultdict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def add(self, result: StepResult) -> None:
        """Adds the result of a step."""
        tasks = tuple(result.losses)
        for task, loss in result.losses.items():
            self._values[f"loss/{task}"].append(loss)
        for task, loss in (result.perturbed_losses or {}).items():
            self._sharpness[task].append((loss, result.losses[task]))
        if result.weights is not None:
            self._weights.append((tasks, result.weights.detach()))
        if result.gramian is not None:  # it is on the CPU
            norms = result.gramian.diagonal().clamp_min(0).sqrt()
            for task, norm in zip(tasks, norms, strict=True):
                self._values[f"gradient_norm/{task}"].append(norm)
        if result.conflicts is not None:
            self._values["conflicts"].append(torch.tensor(result.conflicts))

    def take(self) -> dict[str, float]:
        """Computes the means, and resets.

        Returns:
            ``loss/TASK``, ``sharpness/TASK`` (perturbed minus natural loss), ``weight/TASK`` (and
            ``weight_flat/TASK`` if the aggregation is decomposed), ``gradient_norm/TASK`` (of
            the aggregated task gradients: square roots of the Gramian's diagonal) and
            ``conflicts`` (share of conflicting task pairs), each if any step had it.
        """
        values = dict(self._values)
        for tasks, weights in self._weights:
            for name, row in zip(
                ("weight", "weight_flat"), torch.atleast_2d(weights), strict=False
            ):
                for task, weight in zip(tasks, row, strict=True):
                    values.setdefault(f"{name}/{task}", []).append(weight)
        means = {tag: _double(tensors).mean().item() for tag, tensors in values.items()}
        for task, pairs in self._sharpness.items():
            perturbed, natural = zip(*pairs, strict=True)
            means[f"sharpness/{task}"] = (_double(perturbed) - _double(natural)).mean().item()
        self._values.clear()
        self._weights.clear()
        self._sharpness.clear()
        return means


def _double(scalars: Sequence[Tensor]) -> Tensor:
    """Stacks scalars on the CPU in float64."""
    return torch.stack(tuple(scalars)).cpu().double()
