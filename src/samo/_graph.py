"""What lies behind some losses in the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node


class Reached:
    """What some tensors depend on.

    Args:
        tensors: The tensors, with their graphs.

    Attributes:
        leaves: The ids of the leaves that require gradients.
        nodes: The nodes of the graph.
        compiled: The nodes that are compiled graphs, with the outputs by which they are entered.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.leaves: set[int] = set()
        self.nodes: set[Node] = set()
        self.compiled: dict[Node, set[int]] = {}
        edges: list[tuple[Node | None, int]] = []
        for tensor in tensors:
            if tensor.grad_fn is None:
                self.leaves.add(id(tensor))
            edges.append((tensor.grad_fn, tensor.output_nr))
        while edges:
            node, output = edges.pop()
            if node is None:
                continue
            if "CompiledFunction" in node.name():
                self.compiled.setdefault(node, set()).add(output)
            if node in self.nodes:
                continue
            self.nodes.add(node)
            if node.name() == "torch::autograd::AccumulateGrad":
                self.leaves.add(id(node.variable))  # type: ignore[attr-defined]
            edges.extend(node.next_functions)
