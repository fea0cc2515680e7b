"""Batches, and what each counts for in the mean losses over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from samo.engine import Losses as Closure
from samo.engine import checked_tasks, evaluated

from ._errors import AnalysisError

Losses = Callable[[Any, Sequence[str]], Mapping[str, Tensor]]
"""Maps a batch and the names of tasks to their losses, means over the batch's examples."""
Sizes = Callable[[Any], int | Mapping[str, int]]
"""The number of a batch's examples, or that of each task."""


class Part(NamedTuple):
    """A batch as a part of the whole.

    Attributes:
        closure: Evaluates the batch's losses, as `samo.Engine.backward` wants it.
        shares: The batch's examples of a task over all there are, by task; they add up to one over
            the batches. Tasks that have none in this batch are left out.
    """

    closure: Closure
    shares: dict[str, float]

    def losses(self) -> dict[str, Tensor]:
        """Evaluates the losses of the tasks that have examples in this batch."""
        return evaluated(self.closure, list(self.shares), list(self.shares))


class Data:
    r"""Batches that are gone through again and again, and kept one at a time.

    The mean loss of task i is :math:`l_i = \sum_b \frac{n_{b,i}}{N_i} l_{b,i}` with n_{b,i}
    examples in batch b, so that a smaller last batch counts for less.

    Args:
        losses: Evaluates a batch's losses.
        batches: The batches: a list, a ``DataLoader``, or any other iterable that starts anew.
        tasks: The names of the tasks.
        sizes: The number of a batch's examples, or a mapping of it by task where these differ. Left
            out, it is the first dimension of the first tensor in the batch; where the batch maps
            tasks to batches of their own, of each one's.

    Attributes:
        tasks: The names of the tasks.
        n_batches: The number of batches.

    Raises:
        AnalysisError: If there are no batches, a task has no example, or the batches cannot be gone
            through twice.
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
                f"batches must be a list, a DataLoader or another iterable that can be gone "
                f"through again and again; found {type(batches).__name__}."
            )
        self.tasks = checked_tasks(tasks)
        self._losses, self._batches, self._sizes = losses, batches, sizes
        self._totals: Counter[str] = Counter()
        self.n_batches = 0
        for batch in batches:
            self._totals.update(self._counted(batch))
            self.n_batches += 1
        if self.n_batches == 0:
            raise AnalysisError("batches is empty: there is nothing to evaluate the losses on.")
        if missing := [task for task in self.tasks if not self._totals[task]]:
            raise AnalysisError(f"There is no example of {missing} in the batches.")

    def __iter__(self) -> Iterator[Part]:
        for batch in self._batches:
            counts = self._counted(batch)
            shares = {t: counts[t] / self._totals[t] for t in self.tasks if counts.get(t)}
            if shares:
                yield Part(self._closure(batch, shares), shares)

    def _closure(self, batch: Any, present: Collection[str]) -> Closure:
        """Evaluates a batch's losses; those that were not asked for are left out."""

        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            wanted = [task for task in tasks if task in present]
            answer = self._losses(batch, wanted)
            if not isinstance(answer, Mapping):
                return answer
            if missing := [task for task in wanted if task not in answer]:
                raise AnalysisError(
                    f"A batch has no loss of {missing}, though its examples are counted for "
                    f"them. Give sizes=, a function of a batch that says how many it has of "
                    f"each task."
                )
            return {task: answer[task] for task in wanted}

        return evaluate

    def _counted(self, batch: Any) -> dict[str, int]:
        """The number of examples by task."""
        found = self._sizes(batch) if self._sizes else _size(batch, self.tasks)
        if not isinstance(found, Mapping):
            return dict.fromkeys(self.tasks, found)
        return {task: found[task] for task in self.tasks if task in found}


def _size(batch: Any, tasks: Sequence[str]) -> int | dict[str, int]:
    """The first dimension of the first tensor, of each task's own batch where there are such."""
    if isinstance(batch, Mapping) and batch and all(key in tasks for key in batch):
        return {task: _length(part) for task, part in batch.items()}
    return _length(batch)


def _length(batch: Any) -> int:
    if (graphs := getattr(batch, "num_graphs", None)) is not None:  # of PyTorch Geometric
        return int(graphs)
    for tensor in _tensors(batch):
        return len(tensor)
    raise AnalysisError(
        f"The number of examples in a batch cannot be told from {type(batch).__name__}: it holds "
        f"no tensor. Give sizes=, a function of a batch."
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
