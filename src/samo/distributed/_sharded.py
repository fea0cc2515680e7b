"""Models in shards: FSDP2 (``torch.distributed.fsdp.fully_shard``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from samo.distributed._placement import Fill, Placement
from samo.distributed._ranks import Agreement, Ranks
from samo.model._closure import Losses
from samo.model._random import Streams
from samo.tensors._dtensor import local, part_of
from samo.tensors._vector import Vector

# Random numbers are drawn that many at a time, to keep a shard of them. A multiple of 16: torch's
# normal numbers then are those that one draw of all would give, on the CPU.
_CHUNK = 1 << 18


class Sharded(Placement):
    """Each rank holds a slice of each parameter, a ``DTensor``.

    Vectors are of the slices; norms and inner products are summed over the ranks. The model's own
    hooks gather the parameters of a unit when it is evaluated, and average and scatter the
    gradients in its backward pass. So every rank must evaluate the same modules in the same order.

    Args:
        model: The model, after ``fully_shard``.
        ranks: The ranks.

    Raises:
        ValueError: If trainable parameters are not sharded, or not over these ranks.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._reshard()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._size = ranks.size
        self._behind: dict[int, int] = {}
        self.spread = ranks.total
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                _check(name, parameter, ranks.size)

    def start(self) -> None:
        """Frees what an evaluation outside of the engine has gathered, which may be outdated."""
        self._reshard()

    def settle(self) -> None:
        """Registers the slices in the place of what has been gathered."""
        self._reshard()

    def guarded(self, closure: Losses) -> Losses:
        """Frees the gathered parameters after each evaluation, since they will move."""

        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            try:
                return closure(tasks)
            finally:
                self._reshard()

        return evaluate

    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """All of them, since no rank may be missed in the collective operations of a task."""
        if absent := [task for task in agreed.means if task not in losses]:
            raise ValueError(
                f"Tasks {absent} are absent on this rank and present on others. In a sharded model "
                f"every rank must evaluate the same tasks: return a finite loss of them (of any "
                f"input), and say batch_size={{{absent[0]!r}: 0}}, so that it does not count."
            )
        return {task: losses[task] for task in agreed.means}

    def behind(self, leaves: set[int]) -> set[int]:
        """The slices of the gathered parameters, which are the leaves."""
        if unknown := leaves - self._behind.keys():
            self._meet(unknown)
        return {self._behind.get(leaf, leaf) for leaf in leaves}

    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
    ) -> list[Tensor | None]:
        """By a backward pass, in which FSDP averages over the ranks and scatters."""
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            torch.autograd.backward(
                losses, [seed * self._size for seed in seeds], retain_graph=retain
            )
            return [None if p.grad is None else local(p.grad) for p in parameters]
        finally:
            self._reshard()
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient

    def reduce_(
        self,
        large: Sequence[Tensor],  # noqa: ARG002
        small: Sequence[Tensor],  # noqa: ARG002
        marks: Sequence[bool] = (),
    ) -> Sequence[bool]:
        """The backward passes have done so."""
        return marks

    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:  # noqa: ARG002
        """They are divided already."""
        return None

    def fill(
        self, vector: Vector, parameters: Sequence[Parameter], streams: Streams, how: Fill
    ) -> Vector:
        """Draws the numbers of all slices, in the order of whole vectors, and keeps this rank's."""
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Parameter, Tensor]]] = {}
        for parameter, slice_ in zip(parameters, vector.tensors, strict=True):
            groups.setdefault((slice_.device, slice_.dtype), []).append((parameter, slice_))
        for (device, dtype), members in groups.items():
            total = sum(parameter.numel() for parameter, _ in members)
            numbers = _Numbers(total, torch.empty(0, device=device, dtype=dtype), streams, how)
            for parameter, slice_ in members:
                whole = numbers.take(parameter.numel()).view(parameter.shape)
                slice_.copy_(part_of(whole, parameter))
        return vector

    def _reshard(self) -> None:
        for unit in self._units:
            unit.reshard()

    def _meet(self, leaves: set[int]) -> None:
        """Finds out which leaves are whose, one unit after the other."""
        for unit in self._units:
            assert isinstance(unit, nn.Module)
            slices = dict(unit.named_parameters())
            unit.unshard()
            for name, gathered in unit.named_parameters():
                self._behind[id(gathered)] = id(slices[name])
            unit.reshard()
        for leaf in leaves:
            self._behind.setdefault(leaf, leaf)


class _Numbers:
    """The random numbers of a whole vector, one parameter after the other."""

    def __init__(self, total: int, like: Tensor, streams: Streams, how: Fill) -> None:
        self._chunks = self._drawn(total, like, streams, how)
        self._left = like

    def take(self, count: int) -> Tensor:
        """The next so many."""
        parts, found = [self._left], len(self._left)
        while found < count:
            parts.append(next(self._chunks))
            found += len(parts[-1])
        numbers = torch.cat(parts)
        self._left = numbers[count:]
        return numbers[:count]

    @staticmethod
    def _drawn(total: int, like: Tensor, streams: Streams, how: Fill) -> Iterator[Tensor]:
        while total > 0:
            count = total if total < _CHUNK + 16 else _CHUNK
            chunk = like.new_empty(count)
            how(chunk, streams.on(like.device))
            yield chunk
            total -= count


def _check(name: str, parameter: Parameter, size: int) -> None:
    if not isinstance(parameter, DTensor):
        raise ValueError(
            f"Parameter {name!r} is whole, where others are in shards: apply fully_shard to the "
            f"whole model (its root last) before the engine is made, or freeze the parameter."
        )
    mesh, placements = parameter.device_mesh, parameter.placements
    if mesh.ndim != 1 or not placements[0].is_shard() or mesh.size() != size:
        raise ValueError(
            f"Parameter {name!r} must be sharded over all {size} ranks of process_group, in one "
            f"dimension; found {placements} on a mesh of shape {tuple(mesh.shape)}."
        )
