"""A method as the engine uses it, and gradients that are hard on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from samo import aggregation
from samo.aggregation import Combiner, combiner
from samo.tensors import Layout

M = 23


def options(name: str, n_tasks: int) -> dict[str, Any]:
    """What `create` must be given besides the name."""
    return {"weights": [1.0 + i for i in range(n_tasks)]} if name == "constant" else {}


def make(name: str, n_tasks: int, **more: Any) -> Combiner:
    """A fresh method of the registry, as the engine holds it."""
    return combiner(aggregation.create(name, n_tasks, **options(name, n_tasks), **more), n_tasks)


def aggregate(
    method: Combiner, rows: Tensor, losses: Tensor, present: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """One aggregation as a step of the engine makes it: the direction, and the weights."""
    present = range(len(rows)) if present is None else present
    layout = Layout([rows[0, :8].view(2, 4), rows[0, 8:]])
    matrix = layout.matrix(len(rows))
    for vector, row in zip(matrix.rows, rows, strict=True):
        vector.copy_([row[:8].view(2, 4), row[8:]])
    weights: Tensor | None
    if method.weighs_first:
        weights, _ = method.weigh(losses, present)
        return matrix.combine(weights).flats[0], weights
    method.tell(losses, present)
    direction, weights = method.combine(matrix, matrix.gramian(), present)
    return direction.flats[0], weights


def losses_of(n_tasks: int) -> Tensor:
    """Positive losses, all different."""
    return torch.linspace(0.5, 2.0, n_tasks, dtype=torch.float64)


def gradients(kind: str, n_tasks: int, m: int = M) -> Tensor:
    """Rows of a kind, of norms around 1, in float64."""
    generator = torch.Generator().manual_seed(n_tasks)
    rows = torch.randn(n_tasks, m, generator=generator, dtype=torch.float64) / m**0.5
    signs = torch.ones(n_tasks, dtype=torch.float64).index_fill(0, torch.arange(1, n_tasks, 2), -1)
    made = {
        "random": lambda: rows,
        "identical": lambda: rows[:1].repeat(n_tasks, 1),
        "opposite": lambda: signs[:, None] * rows[0],
        "conflicting": lambda: rows - 1.02 * rows.mean(0),
        "rank 2": lambda: rows[:, :2] @ rows[:2].flip(1) if n_tasks > 1 else rows,
        "one zero": lambda: rows.index_fill(0, torch.tensor(0), 0.0),
        "all zero": lambda: torch.zeros_like(rows),
        "of all sizes": lambda: rows * torch.logspace(-5, 5, n_tasks, dtype=rows.dtype)[:, None],
    }
    return made[kind]()


KINDS = (
    "random",
    "identical",
    "opposite",
    "conflicting",
    "rank 2",
    "one zero",
    "all zero",
    "of all sizes",
)
