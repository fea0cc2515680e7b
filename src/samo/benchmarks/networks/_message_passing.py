"""The message-passing network of PyTorch Geometric's example for QM9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._shared_trunk import check_sizes

_STEPS = 3


@dataclass(frozen=True)
class CompleteGraphs:
    """Complete graphs, padded to the largest of them.

    Args:
        nodes: Features of the nodes, ``[N, A, node_features]``.
        edges: Features of the edges, ``[N, A, A, edge_features]``, target before source.
        real: True for nodes that are not padding, ``[N, A]``.
    """

    nodes: Tensor
    edges: Tensor
    real: Tensor

    def __len__(self) -> int:
        return len(self.nodes)

    def to(self, device: torch.device | str) -> Self:
        """Returns the graphs on a device."""
        return type(self)(self.nodes.to(device), self.edges.to(device), self.real.to(device))


class MessagePassing(nn.Module):
    """The message-passing network of PyTorch Geometric's example, with a head for each task.

    A linear layer of 64 with ReLU; three steps of message passing with the same weights, each an
    edge-conditioned convolution (`CompleteNNConv`) with ReLU and a GRU; Set2Set with three steps; a
    linear layer of 64 with ReLU; a head ``Linear(64, 1)`` per task. 617,675 parameters with 11
    heads. After Gilmer et al. (ICML 2017, arXiv:1704.01212); Nash-MTL, FAMO, FairGrad and SAMO use
    it. Initialisation as in the example: PyTorch's default, and zeros for the convolution's bias.

    Takes `CompleteGraphs` and returns outputs of shape ``[N]``.

    Args:
        tasks: The names of the tasks.
        node_features: The number of features of a node.
        edge_features: The number of features of an edge.
        width: The width of all layers; the edge network has twice this width.

    Raises:
        ValueError: If there is no task, or a size is below 1.
        ImportError: If PyTorch Geometric is not installed.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        node_features: int = 11,
        edge_features: int = 5,
        width: int = 64,
    ) -> None:
        check_sizes(tasks, node_features=node_features, edge_features=edge_features, width=width)
        require_graph_extra()
        # Imported here because the import takes seconds.
        from torch_geometric.nn import Set2Set

        super().__init__()
        self.lin0 = nn.Linear(node_features, width)
        self.conv = CompleteNNConv(width, edge_features)
        self.gru = nn.GRU(width, width)
        self.set2set = Set2Set(width, processing_steps=_STEPS)
        self.lin1 = nn.Linear(2 * width, width)
        self.heads = nn.ModuleDict(
            {task: nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)) for task in tasks}
        )

    def forward(self, x: CompleteGraphs, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the trunk once and the heads of the requested tasks."""
        nodes = F.relu(self.lin0(x.nodes))
        edges = self.conv.edges(x)
        hidden = nodes.flatten(0, 1).unsqueeze(0)
        for _ in range(_STEPS):
            messages = F.relu(self.conv(nodes, edges))
            output, hidden = self.gru(messages.flatten(0, 1).unsqueeze(0), hidden)
            nodes = output.view_as(nodes)
        sizes = x.real.sum(1)
        graph = torch.arange(len(x), device=sizes.device).repeat_interleave(sizes)
        features = F.relu(self.lin1(self.set2set(nodes[x.real], graph, dim_size=len(x))))
        return {task: self.heads[task](features) for task in tasks}


class CompleteNNConv(nn.Module):
    """PyTorch Geometric's ``NNConv`` with the mean over the neighbours, for complete graphs.

    With node features x, edge features e, n nodes, and the hidden units h(e) of the edge network,
    whose second layer W maps them to a matrix::

        y_i = Θ x_i + b + 1/(n-1) Σ_{j≠i} W(h(e_ij))ᵀ x_j

    W is linear, so the product with a neighbour j is computed once for each j and hidden unit, not
    once for each of its n - 1 edges; the hidden units of the edges then weight the results. This is
    the same function, without the matrix that the library computes for each edge.

    Args:
        width: The number of input and output features of a node.
        edge_features: The number of features of an edge.
    """

    def __init__(self, width: int, edge_features: int) -> None:
        super().__init__()
        self.nn = nn.Sequential(
            nn.Linear(edge_features, 2 * width), nn.ReLU(), nn.Linear(2 * width, width * width)
        )
        self.lin = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def edges(self, graphs: CompleteGraphs) -> Tensor:
        """Computes the weights of the edges, which all steps of message passing share.

        Returns:
            The hidden units of the edge network, and 1 for its bias, divided by the number of
            neighbours; zero without an edge. The shape is ``[N, A, A, 2 width + 1]``.
        """
        first, activation, _ = self.nn
        hidden = activation(first(graphs.edges))
        real = graphs.real
        joined = real.unsqueeze(1) & real.unsqueeze(2)
        joined &= ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        share = joined / joined.sum(2, keepdim=True).clamp(min=1)
        return F.pad(hidden, (0, 1), value=1.0) * share.unsqueeze(3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Computes new features of the nodes, ``[N, A, width]``, from the old ones and `edges`."""
        n, size, width = nodes.shape
        second = cast(nn.Linear, self.nn[2])
        # [width in, width out, hidden] and [width in, width out] -> [width in, (hidden + 1) out].
        matrices = second.weight.view(width, width, -1).permute(0, 2, 1)
        matrices = torch.cat([matrices, second.bias.view(width, 1, width)], dim=1).flatten(1)
        from_neighbours = (nodes @ matrices).view(n, -1, width)
        return torch.baddbmm(
            self.lin(nodes) + self.bias, edges.reshape(n, size, -1), from_neighbours
        )


def require_graph_extra() -> None:
    """Raises an error if PyTorch Geometric is missing.

    Raises:
        ImportError: If it is not installed.
    """
    if find_spec("torch_geometric") is None:
        raise ImportError(
            'QM9 needs PyTorch Geometric, which is not installed: pip install "torch-samo[graph]".'
        )
