"""The interface of a placement: parameters and gradients are replicated on every rank, or sharded.

It has two implementations: `Replicated` (in ``_alone.py``) and `Sharded` (in ``_sharded.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import Parameter

from samo.model import Streams
from samo.tensors import GlobalSum, Vector

from ._ranks import Agreement, Ranks

Fill = Callable[[Tensor, torch.Generator], object]
"""Fills a flat tensor with random numbers."""


class Placement(ABC):
    """How a model is placed on the ranks, with its evaluation and differentiation.

    Attributes:
        whole: Whether each rank holds whole parameters and gradients.
        global_sum: Sums numbers over the ranks that hold the shards of a vector; None if each
            holds the whole.
    """

    whole: bool
    global_sum: GlobalSum | None

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Returns descriptions of the placement, which must be equal on all ranks."""

    @abstractmethod
    def start(self) -> None:
        """Prepares the model for a step."""

    @abstractmethod
    def settle(self) -> None:
        """Ensures that the parameters registered in the model are those that the engine knows."""

    @abstractmethod
    def evaluated(self) -> None:
        """Is called after each call of the user's closure."""

    @abstractmethod
    def begin(self) -> None:
        """Prepares this process for evaluations."""

    @abstractmethod
    def end(self) -> None:
        """Restores what `begin`, evaluations and backward passes change, at any moment of them."""

    @abstractmethod
    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """Returns the losses of this rank that the step uses, in the order of the tasks."""

    @abstractmethod
    def behind(self, leaves: set[int]) -> set[int]:
        """Maps the ids of leaves of the graph to the ids of the parameters that they stand for."""

    @abstractmethod
    def leaves(self, parameters: Sequence[Parameter]) -> set[int]:
        """Returns the ids of the leaves of the graph that stand for parameters."""

    @abstractmethod
    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
        edges: Sequence[GradientEdge] = (),
    ) -> list[Tensor | None]:
        """Differentiates a weighted sum of losses.

        Args:
            losses: The losses, with their graphs.
            parameters: The parameters.
            seeds: The losses' weights, in the losses' dtypes.
            retain: Whether the graph is needed again.
            edges: Further ends of the backward pass.

        Returns:
            This rank's parts of the gradients; None for parameters that are not reached.
        """

    @abstractmethod
    def pull_back(
        self,
        edges: Sequence[GradientEdge],
        parameters: Sequence[Parameter],
        cotangents: Sequence[Tensor],
        losses: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Multiplies gradients at edges of a graph by the transposed Jacobian of what is there.

        Args:
            edges: The edges, the ends of an earlier backward pass.
            parameters: The parameters.
            cotangents: The gradients at the edges.
            losses: The losses that the earlier pass differentiated; unused if the parameters are
                ``whole``.

        Returns:
            This rank's parts of the gradients; None for parameters that are not reached.
        """

    @abstractmethod
    def as_gradient(self, part: Tensor, parameter: Tensor) -> Tensor:
        """Returns the gradient of a parameter, given this rank's part of it."""

    @abstractmethod
    def reduce_(
        self, large: Sequence[Tensor], small: Sequence[Tensor], marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Sums gradients over the ranks in place and returns which marks any rank has set."""

    @abstractmethod
    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:
        """Returns the ranks that divide the columns of the task gradients among them, or None."""

    @abstractmethod
    def fill(
        self, vector: Vector, parameters: Sequence[Parameter], streams: Streams, how: Fill
    ) -> Vector:
        """Fills a vector with random numbers that do not depend on the number of ranks."""
