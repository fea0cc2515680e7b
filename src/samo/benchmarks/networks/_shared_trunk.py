"""A trunk that all tasks share, and a head for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn


class SharedTrunk(nn.Module):
    """A trunk that all tasks share, and a head for each (hard parameter sharing).

    Args:
        trunk: Makes features of the input.
        heads: The head of each task, which makes its output of the features.

    Example:
        >>> import torch
        >>> network = SharedTrunk(nn.Linear(3, 2), {"a": nn.Linear(2, 1), "b": nn.Linear(2, 5)})
        >>> {task: y.shape for task, y in network(torch.zeros(4, 3), ["b"]).items()}
        {'b': torch.Size([4, 5])}
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the trunk once and the heads that are asked for.

        Args:
            x: The input.
            tasks: The tasks.

        Returns:
            The output of each of the tasks.
        """
        features = self.trunk(x)
        return {task: self.heads[task](features) for task in tasks}


def check_sizes(tasks: Collection[str], **sizes: int) -> None:
    """Makes sure that a network has tasks, and sizes that layers can have.

    Args:
        tasks: Its tasks.
        **sizes: The sizes, by the name of the argument.

    Raises:
        ValueError: If there is no task, one occurs twice, or a size is below 1.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks must be at least one name, each once; found {list(tasks)}.")
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; found {size}.")
