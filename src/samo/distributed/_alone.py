"""A single process, and models that are replicated on every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from samo._errors import explained
from samo.model import Streams
from samo.tensors import Vector

from ._placement import Fill, Placement
from ._ranks import Agreement, Ranks


class Alone(Ranks):
    """A single process."""

    size = 1
    rank = 0

    def together(self) -> AbstractContextManager[None]:
        """Does nothing."""
        return nullcontext()

    def check(self, facts: Mapping[str, str]) -> None:
        """Does nothing."""

    def agree(
        self, losses: Mapping[str, Tensor], sizes: Mapping[str, float], *, news: bool
    ) -> Agreement:
        """Returns this process's losses as the agreement."""
        means = {task: loss.detach().clone() for task, loss in losses.items() if sizes[task] > 0}
        return Agreement(means, {t: sizes[t] for t in means}, dict.fromkeys(means, 1.0), news)

    def means(
        self,
        tasks: Sequence[str],
        losses: Mapping[str, Tensor],
        shares: Mapping[str, float],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Returns copies of the losses."""
        return {task: losses[task].detach().clone() for task in tasks}

    def largest(self, flags: Tensor) -> Tensor:
        """Returns the flags."""
        return flags

    def total(self, part: Tensor) -> Tensor:
        """Returns the tensor."""
        return part

    def add_(
        self,
        large: Sequence[Tensor],  # noqa: ARG002
        small: Sequence[Tensor] = (),  # noqa: ARG002
        marks: Sequence[bool] = (),
    ) -> Sequence[bool]:
        """Returns the marks."""
        return marks

    def scatter(self, flat: Tensor) -> Tensor:
        """Returns the whole."""
        return flat

    def gather(self, part: Tensor) -> Tensor:
        """Returns the whole."""
        return part

    def broadcast_(self, flats: Sequence[Tensor]) -> None:
        """Does nothing."""


class Replicated(Placement):
    """Every rank holds the whole model, wrapped in ``DistributedDataParallel`` or not.

    A wrapper's reducer is bypassed, since gradients are computed by ``torch.autograd.grad``. So is
    its broadcast of buffers, which would affect replays; the buffers of rank 0 are broadcast at the
    start of each step instead. No collective operation runs inside a closure.

    Args:
        model: The model.
        ranks: The ranks.

    Attributes:
        divided_from: The smallest number of shared parameters for which the columns of their
            gradients are divided among the ranks.

    Raises:
        ValueError: If a wrapper cannot be bypassed.
    """

    divided_from: ClassVar[int] = 1 << 18
    whole = True
    global_sum = None

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._model = model
        self._ranks = ranks
        self._flags: list[tuple[DistributedDataParallel, bool, bool]] = []
        self._wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
        if any(wrapper.static_graph for wrapper in self._wrappers):
            raise ValueError(
                "DistributedDataParallel(static_graph=True) always reduces gradients in its first "
                "backward pass: use static_graph=False. The engine reduces the gradients."
            )

    def facts(self) -> dict[str, str]:
        """Describes the buffers that are broadcast."""
        buffers = dict(self._model.named_buffers()) if self._broadcasts else {}
        found = {f"buffer {n!r}": f"{list(b.shape)}, {b.dtype}" for n, b in buffers.items()}
        return {"placement": "replicated", "broadcast_buffers": repr(self._broadcasts), **found}

    def start(self) -> None:
        """Broadcasts the buffers of rank 0, unless a wrapper has ``broadcast_buffers=False``."""
        if self._ranks.size > 1 and self._broadcasts:
            self._ranks.broadcast_(list(self._model.buffers()))

    def begin(self) -> None:
        """Disables the wrappers' synchronisation."""
        self._flags = [
            (wrapper, wrapper.require_backward_grad_sync, wrapper.require_forward_param_sync)
            for wrapper in self._wrappers
        ]
        for wrapper in self._wrappers:
            wrapper.require_backward_grad_sync = False
            wrapper.require_forward_param_sync = False

    def settle(self) -> None:
        """Does nothing."""

    def evaluated(self) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Enables the wrappers' synchronisation."""
        for wrapper, backward, forward in self._flags:
            wrapper.require_backward_grad_sync = backward
            wrapper.require_forward_param_sync = forward
        self._flags = []

    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """Returns the losses with a positive share."""
        return {t: losses[t] for t, share in agreed.shares.items() if share > 0}

    def behind(self, leaves: set[int]) -> set[int]:
        """Returns the leaves, which are the parameters."""
        return leaves

    def leaves(self, parameters: Sequence[Parameter]) -> set[int]:
        """Returns the ids of the parameters, which are the leaves."""
        return set(map(id, parameters))

    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
        edges: Sequence[GradientEdge] = (),
    ) -> list[Tensor | None]:
        """Returns the gradients of this rank's losses; None throughout if it has no losses."""
        found = _gradients(losses, [*parameters, *edges], seeds, retain=retain)
        return found[: len(parameters)]

    def pull_back(
        self,
        edges: Sequence[GradientEdge],
        parameters: Sequence[Parameter],
        cotangents: Sequence[Tensor],
        losses: Sequence[Tensor],  # noqa: ARG002
    ) -> list[Tensor | None]:
        """Runs a backward pass from the edges; returns None throughout if there are none."""
        return _gradients(edges, parameters, cotangents)

    def as_gradient(self, part: Tensor, parameter: Tensor) -> Tensor:  # noqa: ARG002
        """Returns the tensor, which is the whole gradient."""
        return part

    def reduce_(
        self, large: Sequence[Tensor], small: Sequence[Tensor], marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Runs an all-reduce."""
        return self._ranks.add_(large, small, marks)

    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:
        """Returns all ranks, except for small models, where a transfer per row takes longer."""
        if self._ranks.size == 1:
            return None
        size = sum(parameter.numel() for parameter in parameters)
        return self._ranks if size >= self.divided_from else None

    def fill(
        self,
        vector: Vector,
        parameters: Sequence[Parameter],  # noqa: ARG002
        streams: Streams,
        how: Fill,
    ) -> Vector:
        """Draws from this rank's generators, which are in the same state on all ranks."""
        for flat in vector.flats:
            how(flat, streams.on(flat.device))
        return vector

    @property
    def _broadcasts(self) -> bool:
        return all(wrapper.broadcast_buffers for wrapper in self._wrappers)


def _gradients(
    outputs: Sequence[Tensor | GradientEdge],
    ends: Sequence[Tensor | GradientEdge],
    seeds: Sequence[Tensor],
    *,
    retain: bool = False,
) -> list[Tensor | None]:
    if not outputs:
        return [None] * len(ends)
    try:
        found: Sequence[Tensor | None] = torch.autograd.grad(
            outputs,  # type: ignore[arg-type]
            ends,  # type: ignore[arg-type]
            seeds,
            retain_graph=retain,
            allow_unused=True,
        )
    except RuntimeError as error:
        if (explanation := explained(error)) is error:
            raise
        raise explanation from error
    return list(found)
