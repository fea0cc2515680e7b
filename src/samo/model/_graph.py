"""Traverses the autograd graph behind some losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.autograd.graph import Node


class Reached:
    """The nodes and leaves that some tensors depend on.

    Args:
        tensors: The tensors, with their graphs.

    Attributes:
        leaves: The leaves that require gradients, by id.
        nodes: The nodes of the graph.
        compiled: The nodes that are compiled graphs, with the outputs that lead to them.
        reentrant: Whether a reentrant activation checkpoint hides a part of the graph.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.leaves: dict[int, Tensor] = {}
        self.nodes: set[Node] = set()
        self.compiled: dict[Node, set[int]] = {}
        self.reentrant = False
        edges: list[tuple[Node | None, int]] = []
        for tensor in tensors:
            if tensor.grad_fn is None:
                self.leaves[id(tensor)] = tensor
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
            self.reentrant |= node.name() == "CheckpointFunctionBackward"
            if node.name() == "torch::autograd::AccumulateGrad":
                leaf: Tensor = node.variable  # type: ignore[attr-defined]
                self.leaves[id(leaf)] = leaf
            edges.extend(node.next_functions)

    @property
    def operations(self) -> set[Node]:
        """The nodes that are operations, not leaves."""
        return {node for node in self.nodes if node.next_functions}


def sequence_number() -> int:
    """Returns a number that operations recorded from now on, in this thread, do not fall below."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def older_than(number: int, losses: Mapping[str, Tensor], *, everywhere: bool) -> bool:
    """Whether the last operation of a loss, or any one of its graph, has a smaller number."""
    nodes = {loss.grad_fn for loss in losses.values() if loss.grad_fn is not None}
    if everywhere:
        nodes = Reached(losses.values()).operations
    return any(node._sequence_nr() < number for node in nodes)


def distances(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Returns the number of nodes between each leaf and the nearest of some tensors.

    Args:
        tensors: The tensors, with their graphs.

    Returns:
        The distances, by the ids of the leaves that require gradients.
    """
    found: dict[int, int] = {}
    seen: set[Node] = set()
    here: list[Node] = []
    for tensor in tensors:
        if tensor.grad_fn is None:
            found[id(tensor)] = 0
        else:
            here.append(tensor.grad_fn)
    distance = 0
    while here:
        distance += 1
        there: list[Node] = []
        for node in here:
            if node in seen:
                continue
            seen.add(node)
            if node.name() == "torch::autograd::AccumulateGrad":
                found.setdefault(id(node.variable), distance)  # type: ignore[attr-defined]
            there.extend(after for after, _ in node.next_functions if after is not None)
        here = there
    return found
