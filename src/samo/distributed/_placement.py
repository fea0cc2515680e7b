"""The interface to where the parameters and their gradients are: whole on every rank, or sharded.

It has two forms: `Replicated` (in ``_plain.py``) and `Sharded` (in ``_sharded.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.model import Streams
from samo.tensors import GlobalSum, Vector

from ._ranks import Agreement, Ranks

Fill = Callable[[Tensor, torch.Generator], object]
"""Fills a flat tensor with random numbers."""


class Placement(ABC):
    """How a model is distributed over the ranks; what follows for its evaluation and gradients.

    Attributes:
        whole: Whether each rank holds whole parameters and gradients.
        global_sum: Sums numbers over the ranks that hold the shards of a vector; None if each
            holds the whole.
    """

    whole: bool
    global_sum: GlobalSum | None

    @abstractmethod
    def start(self) -> None:
        """Brings the model to the state in which a step starts."""

    @abstractmethod
    def settle(self) -> None:
        """Ensures that the model's registered parameters are those that the engine knows."""

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[None]:
        """Surrounds each call of the user's closure."""

    @abstractmethod
    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """Returns this rank's losses that the step continues with, in the order of the tasks."""

    @abstractmethod
    def behind(self, leaves: set[int]) -> set[int]:
        """Maps the ids of leaves of the graph to the ids of the parameters that they stand for."""

    @abstractmethod
    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
    ) -> list[Tensor | None]:
        """Differentiates a weighted sum of losses.

        Args:
            losses: The losses, with their graphs.
            parameters: The parameters.
            seeds: The losses' weights, in the losses' dtypes.
            retain: Whether the graph is needed again.

        Returns:
            What this rank holds of the gradients; None for parameters that are not reached.
        """

    @abstractmethod
    def as_gradient(self, part: Tensor, parameter: Tensor) -> Tensor:
        """Returns the gradient of a parameter, given what this rank holds of it."""

    @abstractmethod
    def reduce_(
        self, large: Sequence[Tensor], small: Sequence[Tensor], marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Sums gradients over the ranks in place, and unites marks, unless that is done already."""

    @abstractmethod
    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:
        """Returns the ranks to divide the columns of the task gradients among; None for none."""

    @abstractmethod
    def fill(
        self, vector: Vector, parameters: Sequence[Parameter], streams: Streams, how: Fill
    ) -> Vector:
        """Fills a vector with random numbers that do not depend on the number of ranks."""
