"""The network for QM9, compared with PyTorch Geometric's layers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samo.benchmarks.networks import CompleteGraphs, MessagePassing

TARGETS = [f"target {i}" for i in range(11)]


def graphs(sizes: list[int], seed: int = 0) -> CompleteGraphs:
    """Makes random graphs, with noise in the padding."""
    generator = torch.Generator().manual_seed(seed)
    n, largest = len(sizes), max(sizes)
    nodes = torch.randn(n, largest, 11, generator=generator)
    edges = torch.randn(n, largest, largest, 5, generator=generator)
    return CompleteGraphs(nodes, edges, torch.arange(largest) < torch.tensor(sizes)[:, None])


class Published(nn.Module):
    """PyTorch Geometric's example, with its own layers, on lists of edges."""

    def __init__(self, width: int) -> None:
        from torch_geometric.nn import NNConv, Set2Set

        super().__init__()
        edge_network = nn.Sequential(
            nn.Linear(5, 2 * width), nn.ReLU(), nn.Linear(2 * width, width * width)
        )
        self.lin0 = nn.Linear(11, width)
        self.conv = NNConv(width, width, edge_network, aggr="mean")
        self.gru = nn.GRU(width, width)
        self.set2set = Set2Set(width, processing_steps=3)
        self.lin1 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, index: Tensor, attributes: Tensor, batch: Tensor) -> Tensor:
        out = F.relu(self.lin0(x))
        h = out.unsqueeze(0)
        for _ in range(3):
            m = F.relu(self.conv(out, index, attributes))
            out, h = self.gru(m.unsqueeze(0), h)
            out = out.squeeze(0)
        return F.relu(self.lin1(self.set2set(out, batch)))


def listed(graphs: CompleteGraphs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes, edges (source, target), their features, and the graph of each node, one by one."""
    x: list[Tensor] = []
    index, attributes, batch = [], [], []
    for g, real in enumerate(graphs.real):
        n, before = int(real.sum()), len(x)
        x += [graphs.nodes[g, i] for i in range(n)]
        batch += [g] * n
        for target in range(n):
            for source in range(n):
                if source != target:
                    index.append((before + source, before + target))
                    attributes.append(graphs.edges[g, target, source])
    return torch.stack(x), torch.tensor(index).T, torch.stack(attributes), torch.tensor(batch)


@pytest.mark.parametrize("sizes", [[2], [3, 7, 2, 9, 9], [5, 5]])
def test_outputs_and_gradients_are_those_of_pytorch_geometric_s_example(sizes: list[int]) -> None:
    torch.manual_seed(0)
    network, published = MessagePassing(["a", "b"], width=6).double(), Published(6).double()
    state = network.state_dict()
    published.load_state_dict({n: t for n, t in state.items() if not n.startswith("heads")})
    single = graphs(sizes)
    batch = CompleteGraphs(single.nodes.double(), single.edges.double(), single.real)
    ours = network(batch, ["b"])["b"]
    theirs = network.heads["b"](published(*listed(batch)))
    assert ours.shape == (len(sizes),)
    torch.testing.assert_close(ours, theirs)
    weights = torch.arange(1.0, len(sizes) + 1).double()
    names = [name for name, _ in published.named_parameters()]
    shared = [network.get_parameter(name) for name in names]
    torch.testing.assert_close(
        torch.autograd.grad(ours @ weights, shared),
        torch.autograd.grad(theirs @ weights, list(published.parameters())),
    )


def test_parameters_and_initialisation() -> None:
    torch.manual_seed(1)
    network = MessagePassing(TARGETS)
    assert sum(p.numel() for p in network.parameters()) == 617_675
    assert sum(p.numel() for p in network.heads.parameters()) == 11 * 65
    published = Published(64)
    assert {n: p.shape for n, p in published.named_parameters()} == {
        n: p.shape for n, p in network.named_parameters() if not n.startswith("heads")
    }
    for name, theirs in published.named_parameters():
        ours = network.get_parameter(name)
        if theirs.numel() > 300:  # enough for the spread to be told
            torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.15, atol=0)
            torch.testing.assert_close(ours.abs().max(), theirs.abs().max(), rtol=0.05, atol=0)
    assert not network.get_parameter("conv.bias").any()


def test_neither_padding_nor_the_order_of_nodes_nor_other_graphs_matter() -> None:
    torch.manual_seed(2)
    network = MessagePassing(["a"], width=5).double()
    single = graphs([4, 6, 3])
    # In double precision, since other shapes change the order of the sums.
    batch = CompleteGraphs(single.nodes.double(), single.edges.double(), single.real)
    expected = network(batch, ["a"])["a"]
    for g, n in enumerate([4, 6, 3]):
        order = torch.randperm(n)
        alone = CompleteGraphs(
            batch.nodes[g : g + 1, order],
            batch.edges[g : g + 1, order][:, :, order],
            batch.real[g : g + 1, :n],
        )
        torch.testing.assert_close(network(alone, ["a"])["a"], expected[g : g + 1])


def test_only_requested_heads_are_evaluated() -> None:
    network = MessagePassing(TARGETS, width=4)
    called: list[str] = []
    for task, head in network.heads.items():
        head.register_forward_hook(lambda *_, task=task: called.append(task))
    batch = graphs([3, 5])
    everything = network(batch, TARGETS)
    called.clear()
    alone = network(batch, ["target 3", "target 7"])
    assert called == ["target 3", "target 7"] == list(alone)
    torch.testing.assert_close(alone["target 7"], everything["target 7"])


def test_graphs_move_to_a_device() -> None:
    moved: Any = graphs([2, 4]).to("meta")
    assert {moved.nodes.device.type, moved.edges.device.type, moved.real.device.type} == {"meta"}
    assert len(moved) == 2


def test_the_error_without_pytorch_geometric_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(ImportError, match=r'pip install "torch-samo\[graph\]"'):
        MessagePassing(["a"])
