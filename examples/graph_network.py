"""PyTorch Geometric: predicts the shape of a graph and its number of nodes.

python graph_network.py --epochs 15
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GIN, global_add_pool

import samo

SHAPES = ["ring", "star", "tree", "random"]
TASKS = ["shape", "size"]


def graph(shape, n):
    nodes = torch.arange(n)
    ends = {
        "ring": (nodes, (nodes + 1) % n),
        "star": (nodes[1:], 0 * nodes[1:]),
        "tree": (nodes[1:], (nodes[1:] - 1) // 2),
        "random": (nodes, torch.randint(n, (n,))),
    }
    edges = torch.stack(ends[SHAPES[shape]])
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    return Data(x=torch.ones(n, 1), edge_index=edges, shape=shape, size=torch.tensor([n]).log())


def graphs(count):
    sizes = torch.randint(6, 30, (count,)).tolist()
    return [graph(i % len(SHAPES), n) for i, n in enumerate(sizes)]


class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.trunk = GIN(1, width, num_layers=3, norm="layer")
        self.heads = nn.ModuleDict({"shape": nn.Linear(width, 4), "size": nn.Linear(width, 1)})

    def forward(self, batch, tasks):
        nodes = self.trunk(batch.x, batch.edge_index)
        pooled = global_add_pool(nodes, batch.batch, size=batch.num_graphs) / 20
        return {task: self.heads[task](pooled) for task in tasks}


def main(epochs=15):
    torch.manual_seed(0)
    train, test = graphs(800), graphs(200)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    engine = samo.SAMO(model, TASKS, aggregator="nash-mtl", rho=0.02)
    loss = {"shape": F.cross_entropy, "size": lambda out, log: F.l1_loss(out.squeeze(-1), log)}
    for _ in range(epochs):
        for batch in DataLoader(train, batch_size=40, shuffle=True):

            def losses(tasks):
                out = model(batch, tasks)
                return {task: loss[task](out[task], batch[task]) for task in tasks}

            optimizer.zero_grad()
            engine.backward(losses)
            optimizer.step()
    batch = next(iter(DataLoader(test, batch_size=len(test))))
    out = model(batch, TASKS)
    right = (out["shape"].argmax(1) == batch["shape"]).float().mean().item()
    off = ((out["size"].squeeze(-1) - batch["size"]).exp() - 1).abs().median().item()
    print(f"shape {right:.1%} correct (chance: 25 %), median relative error of size {off:.1%}")
    return {"shape": right, "size": off}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
