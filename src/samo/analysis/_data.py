"""Batches, weighted by their shares of all examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from samo.engine import Losses as Closure
from samo.engine import checked_tasks, evaluated

from ._errors import AnalysisError

Losses = Callable[[Any, Sequence[str]], Mapping[str, Tensor]]
"""Maps a batch and task names to the losses, means over the examples of the batch."""
Sizes = Callable[[Any], int | Mapping[str, int]]
"""Returns the number of examples in a batch, or of each task."""


class WeightedBatch(NamedTuple):
    """A batch with its weights in the mean losses over all batches.

    Attributes:
        closure: Evaluates the losses of the batch, as for `samo.Engine.backward`.
        shares: The share of a task's examples that are in the batch, by task; the shares of all
            batches add up to one. Tasks without examples in this batch are left out.
    """

    closure: Closure
    shares: dict[str, float]

    def losses(self) -> dict[str, Tensor]:
        """Evaluates the losses of the tasks that have examples in this batch."""
        return evaluated(self.closure, list(self.shares), list(self.shares))


class Data:
    r"""Batches that are iterated over several times, one at a time in memory.

    The mean loss of task i is :math:`l_i = \sum_b \frac{n_{b,i}}{N_i} l_{b,i}` with n_{b,i}
    examples in batch b, so a smaller last batch has a smaller weight.

    Args:
        losses: Evaluates the losses of a batch.
        batches: The batches: a list, a ``DataLoader``, or another re-iterable.
        tasks: The names of the tasks.
        sizes: Returns the number of examples in a batch, or a mapping of it by task if they differ.
            By default it is the first dimension of the first tensor in the batch; if the batch maps
            tasks to batches, of each of them.

    Attributes:
        tasks: The names of the tasks.
        n_batches: The number of batches.

    Raises:
        AnalysisError: If there are no batches, a task has no example, or the batches cannot be
            iterated over twice.
        ValueError: If tasks are missing or repeated.
    """

    def __init__(
        self,
        losses: Losses,
        batches: Iterable[Any],
        tasks: Sequence[str],
        sizes: Sizes | None = None,
    ) -> None:
        if not callable(losses):
            raise AnalysisError(
                f"losses must be a function of a batch and task names; "
                f"found {type(losses).__name__}."
            )
        if not isinstance(batches, Iterable) or isinstance(batches, Iterator):
            raise AnalysisError(
                f"batches must be a list, a DataLoader or another re-iterable; "
                f"found {type(batches).__name__}."
            )
        self.tasks = checked_tasks(tasks)
        self._losses, self._batches, self._sizes = losses, batches, sizes
        self._totals: Counter[str] = Counter()
        self.n_batches = 0
        for batch in batches:
            self._totals.update(self._counted(batch))
            self.n_batches += 1
        if self.n_batches == 0:
            raise AnalysisError("batches is empty; the losses need at least one batch.")
        if missing := [task for task in self.tasks if not self._totals[task]]:
            raise AnalysisError(f"The batches contain no example of {missing}.")

    def __iter__(self) -> Iterator[WeightedBatch]:
        for batch in self._batches:
            counts = self._counted(batch)
            shares = {t: counts[t] / self._totals[t] for t in self.tasks if counts.get(t)}
            if shares:
                yield WeightedBatch(self._closure(batch, shares), shares)

    def _closure(self, batch: Any, present: Collection[str]) -> Closure:
        """Returns a closure that evaluates the requested losses of the batch, and no others."""

        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            wanted = [task for task in tasks if task in present]
            answer = self._losses(batch, wanted)
            if not isinstance(answer, Mapping):
                return answer
            if missing := [task for task in wanted if task not in answer]:
                raise AnalysisError(
                    f"A batch has no loss of {missing}, but its examples are counted for them. "
                    f"Give sizes=, a function that maps a batch to the number of examples of each "
                    f"task."
                )
            return {task: answer[task] for task in wanted}

        return evaluate

    def _counted(self, batch: Any) -> dict[str, int]:
        """Returns the number of examples by task."""
        found = self._sizes(batch) if self._sizes else _batch_size(batch, self.tasks)
        if not isinstance(found, Mapping):
            return dict.fromkeys(self.tasks, found)
        return {task: found[task] for task in self.tasks if task in found}


def _batch_size(batch: Any, tasks: Sequence[str]) -> int | dict[str, int]:
    """Returns the first dimension of the first tensor, by task if each has its own batch."""
    if isinstance(batch, Mapping) and batch and all(key in tasks for key in batch):
        return {task: _length(part) for task, part in batch.items()}
    return _length(batch)


def _length(batch: Any) -> int:
    if (graphs := getattr(batch, "num_graphs", None)) is not None:  # batch of PyTorch Geometric
        return int(graphs)
    for tensor in _tensors(batch):
        return len(tensor)
    raise AnalysisError(
        f"The number of examples cannot be inferred from a batch of type {type(batch).__name__} "
        f"without tensors. Give sizes=, a function that maps a batch to this number."
    )


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        if batch.dim() > 0:
            yield batch
    elif isinstance(batch, Mapping):
        yield from _tensors(list(batch.values()))
    elif isinstance(batch, tuple | list):
        for part in batch:
            yield from _tensors(part)
