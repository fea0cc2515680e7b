"""The interface to the processes that take a step together.

The stages of a step are the same for one process and for many. To communicate, they call `Ranks`,
which has two implementations: `Alone` (in ``_plain.py``) for a single process, and `Together` (in
``_process_group.py``) for ``torch.distributed``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """The result of `Ranks.agree` for one closure's losses.

    Attributes:
        means: The losses of the tasks present on any rank, in the order of the tasks: means over
            the ranks that have them, weighted by the sizes.
        sizes: The sizes n_i of these tasks, summed over the ranks.
        shares: This rank's share n_i(here) / n_i of each size; 0 where it has no loss.
        news: Whether the losses of any rank may change the partition.
    """

    means: dict[str, Tensor]
    sizes: dict[str, float]
    shares: dict[str, float]
    news: bool


class Ranks(ABC):
    """The processes that take a step together.

    All of them call the same methods in the same order. A rank that fails announces this instead of
    its next call (`together`), so that the others stop there too and undo the step.

    Attributes:
        size: The number of ranks N.
        rank: The rank of this process.
    """

    size: int
    rank: int

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """Runs its body on all ranks or on none: an exception within is raised on every rank.

        Raises:
            NonFiniteError: If another rank has raised it.
            RankError: If another rank has raised any other exception, or cannot be reached.
        """

    @abstractmethod
    def check(self, facts: Mapping[str, str]) -> None:
        """Checks that these facts are the same on all ranks.

        Raises:
            ValueError: If a fact differs; the message has its values.
        """

    @abstractmethod
    def agree(
        self, losses: Mapping[str, Tensor], sizes: Mapping[str, float], *, news: bool
    ) -> Agreement:
        """Agrees on the tasks that are present, their losses and their sizes.

        Args:
            losses: This rank's losses, by task.
            sizes: The numbers of samples that they are averaged over.
            news: Whether they may change the partition.
        """

    @abstractmethod
    def means(
        self, tasks: Sequence[str], losses: Mapping[str, Tensor], shares: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Returns the weighted means of losses; tasks without a loss here have share 0."""

    @abstractmethod
    def largest(self, flags: Tensor) -> Tensor:
        """Returns the elementwise maximum of integers over the ranks, on the CPU."""

    @abstractmethod
    def total(self, part: Tensor) -> Tensor:
        """Returns the sum of a small tensor over the ranks."""

    @abstractmethod
    def add_(
        self, large: Sequence[Tensor], small: Sequence[Tensor] = (), marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Sums tensors over the ranks in place, and returns which marks any rank has set."""

    @abstractmethod
    def scatter(self, flat: Tensor) -> Tensor:
        """Returns this rank's slice of a sum; the length of ``flat`` is a multiple of N."""

    @abstractmethod
    def gather(self, part: Tensor) -> Tensor:
        """Returns the ranks' slices, concatenated."""

    @abstractmethod
    def broadcast_(self, flats: Sequence[Tensor]) -> None:
        """Overwrites tensors with those of rank 0."""
