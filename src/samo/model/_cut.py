"""The representation: where the tasks' own parts of the autograd graph end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from ._journal import During, Journal

_LEAF = "torch::autograd::AccumulateGrad"

Edge = tuple[Node, int]
"""A node and the number of one of its outputs in the forward pass."""

Above = tuple[Node, dict[int, int]]
"""An own node, with the numbers of the edges below it by the position among its inputs."""


@dataclass(frozen=True)
class Cut:
    """The edges of an autograd graph from own nodes into shared ones.

    A node is a task's own if no other task reaches it, and shared if several do; the leaves of
    shared parameters count as shared. The tensors that belong to the edges are the representation
    z. The gradients of the losses with respect to z determine those with respect to the shared
    parameters. A complex tensor is stored as real and imaginary parts, in a last dimension.

    Attributes:
        edges: The edges, each once.
        above: The own nodes that have such edges, by task.
        roots: The tasks whose loss is itself on an edge, with the number of the edge.
        nested: Whether one edge is reached from another by shared nodes.
        own_leaves: Whether the tasks' own parts have leaves.
    """

    edges: list[Edge]
    above: dict[str, list[Above]]
    roots: dict[str, int]
    nested: bool
    own_leaves: bool

    @property
    def targets(self) -> list[GradientEdge]:
        """The edges, as autograd takes them."""
        return [GradientEdge(*edge) for edge in self.edges]

    @property
    def leaves(self) -> dict[int, int]:
        """The edges to shared parameters that a task uses directly: their numbers by leaf id."""
        return {
            id(node.variable): number  # type: ignore[attr-defined]
            for number, (node, _) in enumerate(self.edges)
            if node.name() == _LEAF
        }

    def add_leaves(self, parameters: Sequence[Tensor]) -> None:
        """Adds the edges to parameters, unless they are there."""
        for edge in map(get_gradient_edge, parameters):
            if (edge.node, edge.output_nr) not in self.edges:
                self.edges.append((edge.node, edge.output_nr))

    def like(self, at_least: torch.dtype | None = None) -> list[Tensor]:
        """Returns tensors with the shapes and devices of z, without storage.

        Args:
            at_least: Their dtypes are promoted to this one; None for the dtypes of z.

        Returns:
            A tensor for each edge.
        """
        found = []
        for node, output in self.edges:
            about = node._input_metadata[output]
            dtype, shape = about.dtype, tuple(about.shape)
            if dtype.is_complex:
                dtype, shape = dtype.to_real(), (*shape, 2)
            if at_least is not None:
                dtype = torch.promote_types(dtype, at_least)
            found.append(torch.empty((), dtype=dtype, device=about.device).expand(shape))
        return found

    def cotangents(self, values: Sequence[Tensor], numbers: Sequence[int]) -> list[Tensor]:
        """Converts values for some edges to the dtypes of z."""
        found = []
        for value, number in zip(values, numbers, strict=True):
            node, output = self.edges[number]
            dtype = node._input_metadata[output].dtype
            if dtype.is_complex:
                found.append(torch.view_as_complex(value.to(dtype.to_real()).contiguous()))
            else:
                found.append(value.to(dtype))
        return found

    def observed(
        self,
        tasks: Sequence[str],
        receive: Callable[[str, int, Tensor], object],
        journal: Journal,
    ) -> During:
        """Returns a context that passes on, and stops, what flows over the edges backwards.

        The shared nodes between two edges, which autograd visits on the way to the second one,
        receive no gradient; for built-in operations, this takes no time.

        Args:
            tasks: The tasks whose losses are differentiated.
            receive: Called with the task, the number of the edge, and a term of the gradient of
                the task's loss there.
            journal: The journal of the step.

        Returns:
            The context.
        """
        handles: list[RemovableHandle] = []

        def hook_of(task: str, numbers: Mapping[int, int]) -> Callable[..., object]:
            def hook(gradients: Sequence[Tensor | None], _: object) -> tuple[Tensor | None, ...]:
                for position, number in numbers.items():
                    gradient = gradients[position]
                    if gradient is not None:
                        real = torch.view_as_real if gradient.is_complex() else torch.Tensor.detach
                        receive(task, number, real(gradient))
                return tuple(None if i in numbers else g for i, g in enumerate(gradients))

            return hook

        def register() -> None:
            for task in tasks:
                for node, numbers in self.above.get(task, ()):
                    handles.append(node.register_hook(hook_of(task, numbers)))

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return journal.during(register, remove)


def cut_of(losses: Mapping[str, Tensor], shared: Set[int]) -> Cut:
    """Finds the cut of the graph of some losses, in one walk.

    Args:
        losses: The losses by task, with their graphs.
        shared: The ids of the leaves that are shared parameters.

    Returns:
        The cut.
    """
    owners: dict[Node, str | None] = {}  # None for shared
    links: dict[Node, Sequence[tuple[Node | None, int]]] = {}
    below_shared: set[Node] = set()
    starts = {task: get_gradient_edge(loss) for task, loss in losses.items()}
    for task, start in starts.items():
        queue: list[tuple[Node, str | None]] = [(start.node, task)]
        while queue:
            node, owner = queue.pop()
            if owner is None:
                below_shared.add(node)
            if node in owners:
                before = owners[node]
                if before is None or before == owner:
                    continue
                owner = None
            elif node.name() == _LEAF and id(node.variable) in shared:  # type: ignore[attr-defined]
                owner = None
            owners[node] = owner
            links[node] = below = node.next_functions
            queue += [(after, owner) for after, _ in below if after is not None]
    numbers: dict[Edge, int] = {}
    above: dict[str, list[Above]] = {}
    own_leaves = False
    for node, owner in owners.items():
        if owner is None:
            continue
        functions = links[node]
        own_leaves |= not functions
        found = {
            position: numbers.setdefault((below, output), len(numbers))
            for position, (below, output) in enumerate(functions)
            if below is not None and owners[below] is None
        }
        if found:
            above.setdefault(owner, []).append((node, found))
    roots = {
        task: numbers.setdefault((start.node, start.output_nr), len(numbers))
        for task, start in starts.items()
        if owners[start.node] is None
    }
    nested = any(node in below_shared for node, _ in numbers)
    return Cut(list(numbers), above, roots, nested, own_leaves)
