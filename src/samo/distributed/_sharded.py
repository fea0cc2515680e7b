"""Sharded models: FSDP2 (``torch.distributed.fsdp.fully_shard``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

from samo._errors import explained
from samo.model import Streams
from samo.tensors import Vector, assembled, local, part_of

from ._placement import Fill, Placement
from ._ranks import Agreement, Ranks

# The number of random numbers drawn at a time, of which a shard is kept. A multiple of 16, for
# which torch on the CPU draws the same normal numbers as in a single call.
_CHUNK = 1 << 18


class Sharded(Placement):
    """Each rank holds a shard of each parameter, a ``DTensor``.

    Vectors consist of shards; norms and inner products are summed over the ranks. The model's own
    hooks gather the parameters of a unit when it is evaluated, and average and scatter the
    gradients in its backward pass. All ranks must evaluate the same modules in the same order.

    Args:
        model: The model, after ``fully_shard``.
        ranks: The ranks.

    Raises:
        ValueError: If trainable parameters are not sharded, or not over these ranks.
    """

    whole = False

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._reshard()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._size = ranks.size
        self._silent: list[RemovableHandle] = []
        self._outside: list[tuple[Parameter, Tensor | None]] = []
        self._behind: dict[int, int] = {}
        self._gathered: dict[int, Tensor] = {}
        self.global_sum = ranks.total
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                _check(name, parameter, ranks.size)

    def facts(self) -> dict[str, str]:
        """Names the placement."""
        return {"placement": "sharded"}

    def start(self) -> None:
        """Frees parameters gathered by an evaluation outside the engine, which may be outdated."""
        self._recover()

    def settle(self) -> None:
        """Registers the shards in place of gathered parameters."""
        self._recover()

    def evaluated(self) -> None:
        """Frees the gathered parameters, since the shards will change."""
        self._reshard()

    def begin(self) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Frees the gathered parameters; restores ``.grad`` after an interrupted backward pass."""
        self._recover()
        self._restore()

    def taking_part(self, losses: Mapping[str, Tensor], agreed: Agreement) -> dict[str, Tensor]:
        """Returns all losses: every rank takes part in the collective operations of each task."""
        if absent := [task for task in agreed.means if task not in losses]:
            raise ValueError(
                f"Tasks {absent} are absent on this rank and present on others. In a sharded model "
                f"every rank must evaluate the same tasks: return a finite loss of them (of any "
                f"input), and pass batch_size={{{absent[0]!r}: 0}}, so that it does not count."
            )
        return {task: losses[task] for task in agreed.means}

    def behind(self, leaves: set[int]) -> set[int]:
        """Returns the shards of the gathered parameters, which are the leaves."""
        if unknown := leaves - self._behind.keys():
            self._map_units(unknown)
        return {self._behind.get(leaf, leaf) for leaf in leaves}

    def leaves(self, parameters: Sequence[Parameter]) -> set[int]:
        """Returns the ids of the gathered parameters."""
        return {id(leaf) for leaf in self._leaves(parameters)}

    def differentiate(
        self,
        losses: Sequence[Tensor],
        parameters: Sequence[Parameter],
        seeds: Sequence[Tensor],
        *,
        retain: bool,
        edges: Sequence[GradientEdge] = (),
    ) -> list[Tensor | None]:
        """Runs a backward pass, in which FSDP averages over the ranks and scatters."""
        starts = list(map(get_gradient_edge, losses))
        if not edges:
            found = self._backward(starts, seeds, parameters, retain=retain)
            self._reshard()
            return found
        # The units that this pass gathers are those that `pull_back` needs first.
        self._keep(True)
        try:
            # Autograd executes the nodes of edges, and would free what `pull_back` needs.
            ends: list[Tensor | GradientEdge] = [*self._leaves(parameters), *edges]
            return self._backward(starts, seeds, parameters, ends, retain=True)
        finally:
            self._keep(False)

    def pull_back(
        self,
        edges: Sequence[GradientEdge],
        parameters: Sequence[Parameter],
        cotangents: Sequence[Tensor],
        losses: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Runs a backward pass from the edges, with the hooks of the units above them.

        A unit gathers its parameters when a backward pass arrives at its outputs, which may be
        above the edges. So the pass starts at the losses, without gradients down to the edges.

        Args:
            edges: The edges.
            parameters: The parameters.
            cotangents: The gradients at the edges.
            losses: The losses above them.

        Returns:
            The shards of the gradients.
        """
        starts = list(map(get_gradient_edge, losses))
        zeros = [torch.zeros_like(loss) for loss in losses]
        for start in starts:
            self._silent.append(start.node.register_prehook(lambda g: (None,) * len(g)))
        found = self._backward([*starts, *edges], [*zeros, *cotangents], parameters)
        self._reshard()
        return found

    def as_gradient(self, part: Tensor, parameter: Tensor) -> Tensor:
        """Returns the ``DTensor`` of which this rank holds the shard."""
        return assembled(part, parameter)

    def reduce_(
        self,
        large: Sequence[Tensor],  # noqa: ARG002
        small: Sequence[Tensor],  # noqa: ARG002
        marks: Sequence[bool] = (),
    ) -> Sequence[bool]:
        """Does nothing: the backward passes have reduced the gradients."""
        return marks

    def columns(self, parameters: Sequence[Parameter]) -> Ranks | None:  # noqa: ARG002
        """Returns None: the columns are divided already."""
        return None

    def fill(
        self, vector: Vector, parameters: Sequence[Parameter], streams: Streams, how: Fill
    ) -> Vector:
        """Draws the numbers of whole vectors in order, and keeps those of this rank's shards."""
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Parameter, Tensor]]] = {}
        for parameter, shard in zip(parameters, vector.tensors, strict=True):
            groups.setdefault((shard.device, shard.dtype), []).append((parameter, shard))
        for (device, dtype), members in groups.items():
            total = sum(parameter.numel() for parameter, _ in members)
            numbers = _Numbers(total, torch.empty(0, device=device, dtype=dtype), streams, how)
            for parameter, shard in members:
                whole = numbers.take(parameter.numel()).view(parameter.shape)
                shard.copy_(part_of(whole, parameter))
        return vector

    def _reshard(self) -> None:
        for unit in self._units:
            unit.reshard()

    def _keep(self, keep: bool) -> None:
        for unit in self._units:
            unit.set_reshard_after_backward(not keep, recurse=False)

    def _recover(self) -> None:
        """Resets the units, which an exception may have left in the midst of a pass."""
        for unit in self._units:
            # Only a unit that has run as the root of others, or alone, can be reset (with them).
            if unit._get_fsdp_state()._is_root and hasattr(unit, "reset_iter_state"):
                unit.reset_iter_state()
        self._reshard()
        for gathered in self._gathered.values():
            gathered.grad = None

    def _restore(self) -> None:
        """Removes the hooks of a backward pass, and restores ``.grad``."""
        for handle in self._silent:
            handle.remove()
        for parameter, gradient in self._outside:
            parameter.grad = gradient
        self._silent, self._outside = [], []

    def _backward(
        self,
        starts: Sequence[GradientEdge],
        seeds: Sequence[Tensor],
        parameters: Sequence[Parameter],
        ends: Sequence[Tensor | GradientEdge] = (),
        *,
        retain: bool = False,
    ) -> list[Tensor | None]:
        self._outside = [(parameter, parameter.grad) for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            try:
                torch.autograd.backward(starts, seeds, retain_graph=retain, inputs=ends or None)  # type: ignore[arg-type]
            except RuntimeError as error:
                if (explanation := explained(error)) is error:
                    raise
                raise explanation from error
            found = [None if p.grad is None else local(p.grad) for p in parameters]
            return [None if gradient is None else gradient.mul_(self._size) for gradient in found]
        finally:
            self._restore()

    def _leaves(self, parameters: Sequence[Parameter]) -> list[Tensor]:
        if any(id(parameter) not in self._gathered for parameter in parameters):
            self._map_units(set())
        return [self._gathered[id(parameter)] for parameter in parameters]

    def _map_units(self, leaves: set[int]) -> None:
        """Records which gathered parameter belongs to which shard, unit by unit."""
        for unit in self._units:
            assert isinstance(unit, nn.Module)
            shards = dict(unit.named_parameters())
            unit.unshard()
            for name, gathered in unit.named_parameters():
                self._behind[id(gathered)] = id(shards[name])
                self._gathered[id(shards[name])] = gathered
            unit.reshard()
        for leaf in leaves:
            self._behind.setdefault(leaf, leaf)


class _Numbers:
    """The random numbers of a whole vector, in the order of the parameters."""

    def __init__(self, total: int, like: Tensor, streams: Streams, how: Fill) -> None:
        self._chunks = self._drawn(total, like, streams, how)
        self._left = like

    def take(self, count: int) -> Tensor:
        """Returns the next ``count`` numbers."""
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
            f"Parameter {name!r} is not sharded, but others are: apply fully_shard to the whole "
            f"model (its root last) before creating the engine, or freeze the parameter."
        )
    mesh, placements = parameter.device_mesh, parameter.placements
    if mesh.ndim != 1 or not placements[0].is_shard() or mesh.size() != size:
        raise ValueError(
            f"Parameter {name!r} must be sharded over all {size} ranks of process_group, in one "
            f"dimension; found {placements} on a mesh of shape {tuple(mesh.shape)}."
        )
