"""Batches of data that lies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class TensorBatches:
    """Batches of tensors that share their first dimension.

    Indexes a whole batch at once, where a ``DataLoader`` collates example by example.

    Args:
        tensors: The tensors, for instance inputs and labels.
        batch_size: The number of examples a batch; the last one may be smaller.
        generator: Shuffles, anew at each iteration; None keeps the order.

    Example:
        >>> import torch
        >>> [x.tolist() for (x,) in TensorBatches((torch.arange(5),), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    tensors: tuple[Tensor, ...]
    batch_size: int
    generator: Generator | None = None

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n = len(self.tensors[0])
        shuffled = self.generator is not None
        order = torch.randperm(n, generator=self.generator) if shuffled else torch.arange(n)
        for chosen in order.split(self.batch_size):
            # Several times as fast as an index.
            yield tuple(tensor.index_select(0, chosen) for tensor in self.tensors)


@dataclass(frozen=True)
class TaskBatches:
    """Batches of problems where each task has its own input: one loader a task, side by side.

    An epoch goes once through each loader. A task whose loader has run out is left out of the
    batches that remain, or begins again.

    Args:
        loaders: The loader of each task.
        again: Whether loaders that have run out begin again, until the longest has run out too.

    Example:
        >>> [sorted(batch) for batch in TaskBatches({"a": [1, 2], "b": [3]})]
        [['a', 'b'], ['a']]
        >>> list(TaskBatches({"a": [1, 2], "b": [3]}, again=True))
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """

    loaders: Mapping[str, Any]
    again: bool = False

    def __len__(self) -> int:
        return max(len(loader) for loader in self.loaders.values())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.again:
            endless = (chain.from_iterable(repeat(loader)) for loader in self.loaders.values())
            for items in islice(zip(*endless, strict=True), len(self)):
                yield dict(zip(self.loaders, items, strict=True))
            return
        iterators = {task: iter(loader) for task, loader in self.loaders.items()}
        end = object()
        while batch := {
            task: item
            for task, iterator in iterators.items()
            if (item := next(iterator, end)) is not end
        }:
            yield batch
