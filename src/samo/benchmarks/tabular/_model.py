"""The network: embedded categories and numbers, a shared trunk, a head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_EMBEDDING = 8


class TabularMLP(nn.Module):
    """A multilayer perceptron with a linear head for each task.

    Args:
        n_numbers: How many numbers a row has.
        n_columns: How many columns of categories it has.
        n_categories: How many categories all of these have together, with index 0 for unseen ones,
            whose embedding is zero and stays so.
        outputs: The number of outputs of each task.
        width: The width of the hidden layers.
        depth: Their number.
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
        # One table for all columns: one look-up, however many there are.
        self.embedding = (
            nn.Embedding(n_categories, _EMBEDDING, padding_idx=0) if n_columns else None
        )
        sizes = [n_numbers + _EMBEDDING * n_columns, *[width] * depth]
        layers: list[nn.Module] = []
        for size, following in pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        # By number: a column may have a name that no module can have, such as "a.b" or "type".
        self._order = {task: i for i, task in enumerate(outputs)}
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in outputs.values())

    def forward(
        self, numbers: Tensor, categories: Tensor, tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Evaluates the trunk and the heads that are asked for.

        Args:
            numbers: Shape ``[n, n_numbers]``.
            categories: Shape ``[n, n_columns]``.
            tasks: The tasks that are asked for.

        Returns:
            For each one, shape ``[n]`` if it has one output, else ``[n, outputs]``.
        """
        if self.embedding is not None:
            numbers = torch.cat([numbers, self.embedding(categories).flatten(1)], dim=1)
        features = self.trunk(numbers)
        return {task: self.heads[self._order[task]](features).squeeze(-1) for task in tasks}
