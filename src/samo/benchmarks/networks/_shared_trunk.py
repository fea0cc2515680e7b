"""Hard parameter sharing: a shared trunk and a head for each task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from .._checks import check_at_least


class SharedTrunk(nn.Module):
    """A shared trunk and a head for each task (hard parameter sharing).

    Args:
        trunk: Computes features from the input.
        heads: The head of each task, which computes its output from the features.

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
        """Evaluates the trunk once and the heads of the requested tasks."""
        features = self.trunk(x)
        return {task: self.heads[task](features) for task in tasks}


def check_sizes(tasks: Collection[str], /, **sizes: int) -> None:
    """Checks the tasks and the sizes of a network.

    Args:
        tasks: The tasks.
        **sizes: The sizes, by the name of the argument.

    Raises:
        ValueError: If there is no task, a task occurs twice, or a size is below 1.
    """
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks must be at least one name, each once; found {list(tasks)}.")
    check_at_least(1, **sizes)
