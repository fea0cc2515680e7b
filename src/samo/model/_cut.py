"""The representation: where the tasks' own parts of the autograd graph end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

_LEAF = "torch::autograd::AccumulateGrad"

Edge = tuple[Node, int]
"""A node and the number of one of its outputs in the forward pass."""


@dataclass(frozen=True)
class Cut:
    """The edges of an autograd graph from own nodes into shared ones.

    A node is a task's own if no other task reaches it, and shared if several do; the leaves of
    shared parameters count as shared. The tensors that belong to the edges are the representation
    z. The gradients of the losses with respect to z determine those with respect to the shared
    parameters.

    Attributes:
        edges: The edges, each once.
        above: The own nodes that have such edges, with their task and the numbers of the edges by
            the position among the node's inputs.
        roots: The tasks whose loss is itself on an edge, with the number of the edge.
    """

    edges: list[Edge]
    above: list[tuple[Node, str, dict[int, int]]]
    roots: dict[str, int]

    @property
    def targets(self) -> list[GradientEdge]:
        """The edges, as autograd takes them."""
        return [GradientEdge(*edge) for edge in self.edges]

    def pull_back(
        self, cotangent: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Multiplies a cotangent by the transposed Jacobian of z.

        Args:
            cotangent: A tensor for each edge.
            parameters: The parameters.

        Returns:
            The products with respect to the parameters; None for those that are not reached.
        """
        inner: list[int] = []
        direct: dict[int, Tensor] = {}  # of parameters that are themselves part of z
        for number, (node, _) in enumerate(self.edges):
            if node.name() == _LEAF:
                direct[id(node.variable)] = cotangent[number]  # type: ignore[attr-defined]
            else:
                inner.append(number)
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if inner:
            targets = self.targets
            found = torch.autograd.grad(
                [targets[i] for i in inner],
                parameters,
                [cotangent[i] for i in inner],
                allow_unused=True,
            )
        sums: list[Tensor | None] = []
        for parameter, gradient in zip(parameters, found, strict=True):
            its = direct.get(id(parameter))
            sums.append(its if gradient is None else gradient if its is None else gradient + its)
        return sums

    def like(self) -> list[Tensor]:
        """Returns tensors with the shapes, dtypes and devices of z, without storage."""
        found = []
        for node, output in self.edges:
            about = node._input_metadata[output]
            one = torch.empty((), dtype=about.dtype, device=about.device)
            found.append(one.expand(about.shape))
        return found

    @contextmanager
    def observed(self, receive: Callable[[str, int, Tensor], object]) -> Iterator[None]:
        """Passes on what flows over the edges in backward passes.

        Args:
            receive: Called with the task, the number of the edge, and a term of the gradient of
                the task's loss there.

        Yields:
            Nothing.
        """
        handles: list[RemovableHandle] = []

        def hook_of(task: str, numbers: Mapping[int, int]) -> Callable[..., None]:
            def hook(inputs: Sequence[Tensor | None], _outputs: object) -> None:
                for position, number in numbers.items():
                    gradient = inputs[position]
                    if gradient is not None:
                        receive(task, number, gradient)

            return hook

        try:
            for node, task, numbers in self.above:
                handles.append(node.register_hook(hook_of(task, numbers)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def cut_of(losses: Mapping[str, Tensor], shared: set[int]) -> Cut:
    """Finds the cut of the graph of some losses, in one walk.

    Args:
        losses: The losses by task, with their graphs.
        shared: The ids of the shared parameters.

    Returns:
        The cut.
    """
    owners: dict[Node, str | None] = {}  # None for shared
    starts = {task: get_gradient_edge(loss) for task, loss in losses.items()}
    for task, start in starts.items():
        queue: list[tuple[Node, str | None]] = [(start.node, task)]
        while queue:
            node, owner = queue.pop()
            if node in owners:
                before = owners[node]
                if before is None or before == owner:
                    continue
                owner = None
            elif node.name() == _LEAF and id(node.variable) in shared:  # type: ignore[attr-defined]
                owner = None
            owners[node] = owner
            queue.extend((below, owner) for below, _ in node.next_functions if below is not None)
    numbers: dict[Edge, int] = {}
    above = []
    for node, owner in owners.items():
        if owner is None:
            continue
        found = {
            position: numbers.setdefault((below, output), len(numbers))
            for position, (below, output) in enumerate(node.next_functions)
            if below is not None and owners[below] is None
        }
        if found:
            above.append((node, owner, found))
    roots = {
        task: numbers.setdefault((start.node, start.output_nr), len(numbers))
        for task, start in starts.items()
        if owners[start.node] is None
    }
    return Cut(list(numbers), above, roots)
