"""The ranks that take a step together, and what they tell each other.

The stages of a step are the same with one process and with many. Where they need what other ranks
know, they ask `Ranks`, which has two forms: `Alone`, where there is nothing to ask, and `Together`
(in ``_together.py``), on ``torch.distributed``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """What the ranks have agreed on about one closure's losses.

    Attributes:
        means: The losses of the tasks that some rank has, in the order of the tasks: means over
            the ranks that have them, weighted by the sizes.
        sizes: The sizes n_i of these tasks, summed over the ranks.
        shares: This rank's part of each size: n_i here / n_i; 0 where it has no loss.
        news: Whether some rank has seen something new of the partition.
    """

    means: dict[str, Tensor]
    sizes: dict[str, float]
    shares: dict[str, float]
    news: bool


class Ranks(ABC):
    """The processes that take a step together.

    All of them call the same methods in the same order. A rank that fails says so in the place of
    its next call (`together`), so that the others stop there, too, with nothing left behind.

    Attributes:
        size: The number of ranks N.
        rank: This rank's number.
    """

    size: int
    rank: int

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """What all ranks do, or none: an exception within is raised on every rank.

        Raises:
            NonFiniteError: If that is what another rank has raised.
            RankError: If another rank has raised anything else, or cannot be reached.
        """

    @abstractmethod
    def check(self, facts: Mapping[str, str]) -> None:
        """Makes sure that these facts are the same on all ranks.

        Raises:
            ValueError: If one is not, naming it and its values.
        """

    @abstractmethod
    def agree(
        self, losses: Mapping[str, Tensor], sizes: Mapping[str, float], *, news: bool
    ) -> Agreement:
        """Agrees on the tasks that are present, their losses and their sizes.

        Args:
            losses: This rank's losses, by task.
            sizes: The sizes that they are means over.
            news: Whether they tell something new of the partition.
        """

    @abstractmethod
    def means(
        self, tasks: Sequence[str], losses: Mapping[str, Tensor], shares: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The weighted means of some tasks' losses; tasks without a loss here have share 0."""

    @abstractmethod
    def largest(self, flags: Tensor) -> Tensor:
        """The largest of each of some integers, on the CPU."""

    @abstractmethod
    def total(self, part: Tensor) -> Tensor:
        """The sum of a few numbers, in any shape."""

    @abstractmethod
    def add_(
        self, large: Sequence[Tensor], small: Sequence[Tensor] = (), marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Sums tensors in place, and tells which marks any rank has set."""

    @abstractmethod
    def scatter(self, flat: Tensor) -> Tensor:
        """This rank's slice of a sum: of a 1-d tensor whose length is a multiple of N."""

    @abstractmethod
    def gather(self, part: Tensor) -> Tensor:
        """The ranks' slices, one after the other."""

    @abstractmethod
    def broadcast_(self, flats: Sequence[Tensor]) -> None:
        """Overwrites tensors by those of rank 0."""


class Alone(Ranks):
    """A single process."""

    size = 1
    rank = 0

    def together(self) -> AbstractContextManager[None]:
        """Nothing to do."""
        return nullcontext()

    def check(self, facts: Mapping[str, str]) -> None:
        """Facts agree with themselves."""

    def agree(
        self, losses: Mapping[str, Tensor], sizes: Mapping[str, float], *, news: bool
    ) -> Agreement:
        """What is here is all."""
        means = {task: loss.detach().clone() for task, loss in losses.items() if sizes[task] > 0}
        return Agreement(means, {t: sizes[t] for t in means}, dict.fromkeys(means, 1.0), news)

    def means(
        self,
        tasks: Sequence[str],
        losses: Mapping[str, Tensor],
        shares: Mapping[str, float],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """The losses themselves."""
        return {task: losses[task].detach().clone() for task in tasks}

    def largest(self, flags: Tensor) -> Tensor:
        """The integers themselves."""
        return flags

    def total(self, part: Tensor) -> Tensor:
        """The numbers themselves."""
        return part

    def add_(
        self,
        large: Sequence[Tensor],  # noqa: ARG002
        small: Sequence[Tensor] = (),  # noqa: ARG002
        marks: Sequence[bool] = (),
    ) -> Sequence[bool]:
        """Sums of one."""
        return marks

    def scatter(self, flat: Tensor) -> Tensor:
        """The whole."""
        return flat

    def gather(self, part: Tensor) -> Tensor:
        """The whole."""
        return part

    def broadcast_(self, flats: Sequence[Tensor]) -> None:
        """They are rank 0's."""
