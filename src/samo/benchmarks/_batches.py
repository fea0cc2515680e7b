"""Batches of data in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Generator, Tensor


def index_batches(n: int, batch_size: int, generator: Generator | None) -> Iterator[Tensor]:
    """Yields the indices of each batch of an epoch.

    Args:
        n: The number of examples.
        batch_size: The number of examples per batch; the last one may be smaller.
        generator: Shuffles the examples; None keeps their order.

    Yields:
        Indices, shape ``[batch_size]``.
    """
    shuffled = generator is not None
    order = torch.randperm(n, generator=generator) if shuffled else torch.arange(n)
    yield from order.split(batch_size)


@dataclass(frozen=True)
class TensorBatches:
    """Batches of tensors that share their first dimension.

    Indexes a whole batch at once, whereas a ``DataLoader`` collates example by example.

    Args:
        tensors: The tensors, for instance inputs and labels.
        batch_size: The number of examples per batch; the last one may be smaller.
        generator: Shuffles anew at each iteration; None keeps the order.

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
        for chosen in index_batches(len(self.tensors[0]), self.batch_size, self.generator):
            # Several times as fast as indexing.
            yield tuple(tensor.index_select(0, chosen) for tensor in self.tensors)


@dataclass(frozen=True)
class TaskBatches:
    """Batches of multi-input problems, in which each task has its own loader.

    An epoch iterates over each loader once. A task whose loader is exhausted is left out of the
    remaining batches, or its loader restarts.

    Args:
        loaders: The loader of each task.
        again: Whether exhausted loaders restart until the longest is exhausted.

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
