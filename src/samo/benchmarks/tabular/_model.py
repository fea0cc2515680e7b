"""The network for tables: embeddings, a shared trunk, a head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_EMBEDDING = 8


class TabularMLP(nn.Module):
    """A multilayer perceptron with a linear head for each task.

    Args:
        n_numbers: The number of numbers per row.
        n_columns: The number of category columns.
        n_categories: The number of categories of all columns together, including index 0 for unseen
            ones, whose embedding is zero and not trained.
        outputs: The number of outputs of each task.
        width: The width of the hidden layers.
        depth: The number of hidden layers.
    """

    def __init__(
        self,
        n_numbers: int,
        n_columns: int,
        n_categories: int,
        outputs: Mapping[str, int],
        *,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        # One table for all columns, so there is one look-up for any number of columns.
        self.embedding = (
            nn.Embedding(n_categories, _EMBEDDING, padding_idx=0) if n_columns else None
        )
        sizes = [n_numbers + _EMBEDDING * n_columns, *[width] * depth]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        # By number, since a column's name can be invalid for a module, such as "a.b" or "type".
        self._order = {task: i for i, task in enumerate(outputs)}
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in outputs.values())

    def forward(
        self, numbers: Tensor, categories: Tensor, tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Evaluates the trunk and the heads of the requested tasks.

        Args:
            numbers: Shape ``[n, n_numbers]``.
            categories: Shape ``[n, n_columns]``.
            tasks: The requested tasks.

        Returns:
            The output of each task, shape ``[n]`` if it has one output, else ``[n, outputs]``.
        """
        if self.embedding is not None:
            numbers = torch.cat([numbers, self.embedding(categories).flatten(1)], dim=1)
        features = self.trunk(numbers)
        return {task: self.heads[self._order[task]](features).squeeze(-1) for task in tasks}
