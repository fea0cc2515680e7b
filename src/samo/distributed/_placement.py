"""Where the parameters and their gradients are: whole on every rank, or in shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from samo.distributed._ranks import Agreement, Ranks
from samo.model._closure import Losses
from samo.model._random import Streams
from samo.tensors._vector import Spread, Vector

DIVIDED_FROM = 1 << 18
"""The number of shared parameters from which on the columns of their gradients are divided."""

Fill = Callable[[Tensor, torch.Generator], object]


class Placement(ABC):
    """How a model lies on the ranks, and what follows for its evaluation and its gradients.

    Attributes:
        spread: Sums numbers over the ranks that hold a vector's coordinates between them; None
            where each holds them all.
    """

    spread: Spread | None

    @abstractmethod
    def start(self) -> None:
        """Brings the model to where a step starts."""

    @abstractmethod
    def settle(self) -> None:
        """Makes sure that the model's registered parameters are those that the engine knows."""

    @abstractmethod
    def guarded(self, closure: Losses) -> Losses:
        """A closure whose evaluations leave the model as the engine needs it."""

    @abstractmethod
    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """This rank's losses that are to be evaluated on, in the order of the tasks."""

    @abstractmethod
    def behind(self, leaves: set[int]) -> set[int]:
        """The ids of the parameters that some leaves of the graph, by their ids, stand for."""

    @abstractmethod
    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
    ) -> list[Tensor | None]:
        """The gradients of a weighted sum of losses: what this rank holds of them."""

    @abstractmethod
    def reduce_(
        self, large: Sequence[Tensor], small: Sequence[Tensor], marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Sums gradients over the ranks in place, and unites marks, where that is not done yet."""

    @abstractmethod
    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:
        """The ranks between which the columns of the task gradients are best divided, if any."""

    @abstractmethod
    def fill(
        self, vector: Vector, parameters: Sequence[Parameter], streams: Streams, how: Fill
    ) -> Vector:
        """Fills a vector with random numbers that are the same whoever holds them."""


class Replicated(Placement):
    """Every rank holds the whole model, wrapped in ``DistributedDataParallel`` or not.

    A wrapper's reducer is bypassed, since gradients are taken by ``torch.autograd.grad``, and so is
    its broadcast of the buffers, which would be seen in replays: buffers are rank 0's at the start
    of each step. So there is no collective operation in a closure at which a rank could be missed.

    Args:
        model: The model.
        ranks: The ranks.

    Raises:
        ValueError: If a wrapper cannot be bypassed.
    """

    spread = None

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._model = model
        self._ranks = ranks
        self._wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        if any(wrapper.static_graph for wrapper in self._wrappers):
            raise ValueError(
                "DistributedDataParallel(static_graph=True) reduces gradients in its first backward"
                " pass whatever happens: leave static_graph out. The engine reduces them."
            )

    def start(self) -> None:
        """Gives all ranks the buffers of rank 0, unless a wrapper was told not to."""
        wanted = all(wrapper.broadcast_buffers for wrapper in self._wrappers)
        if wanted and self._ranks.size > 1:
            self._ranks.broadcast_(list(self._model.buffers()))

    def settle(self) -> None:
        """They are."""

    def guarded(self, closure: Losses) -> Losses:
        """Keeps wrappers from synchronising anything."""
        if not self._wrappers:
            return closure

        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            with self._silent():
                return closure(tasks)

        return evaluate

    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """Those that count."""
        return {t: losses[t] for t, share in agreed.shares.items() if share > 0}

    def behind(self, leaves: set[int]) -> set[int]:
        """The parameters are the leaves."""
        return leaves

    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
    ) -> list[Tensor | None]:
        """Those of this rank's losses; none where it has no losses."""
        if not losses:
            return [None] * len(parameters)
        return [
            *torch.autograd.grad(losses, parameters, seeds, retain_graph=retain, allow_unused=True)
        ]

    def reduce_(
        self, large: Sequence[Tensor], small: Sequence[Tensor], marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """An all-reduce."""
        return self._ranks.add_(large, small, marks)

    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:
        """All ranks, but for small models, where a transfer for each row takes longer."""
        size = sum(parameter.numel() for parameter in parameters)
        return self._ranks if self._ranks.size > 1 and size >= DIVIDED_FROM else None

    def fill(
        self,
        vector: Vector,
        parameters: Sequence[Parameter],  # noqa: ARG002
        streams: Streams,
        how: Fill,
    ) -> Vector:
        """The ranks' generators are in the same state."""
        for flat in vector.flats:
            how(flat, streams.on(flat.device))
        return vector

    @contextmanager
    def _silent(self) -> Iterator[None]:
        flags = [
            (wrapper, wrapper.require_backward_grad_sync, wrapper.require_forward_param_sync)
            for wrapper in self._wrappers
        ]
        try:
            for wrapper in self._wrappers:
                wrapper.require_backward_grad_sync = False
                wrapper.require_forward_param_sync = False
            yield
        finally:
            for wrapper, backward, forward in flags:
                wrapper.require_backward_grad_sync = backward
                wrapper.require_forward_param_sync = forward
