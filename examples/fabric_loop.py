"""Lightning Fabric: a custom loop with micro-batches and a checkpoint.

python fabric_loop.py --micro-batches 4
"""

import argparse
from functools import partial

import lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


def main(epochs=15, micro_batches=2, out="runs/fabric.ckpt"):
    fabric = L.Fabric(devices=1)
    fabric.seed_everything(0, verbose=False)
    train, test = data()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    model, optimizer = fabric.setup(net, optimizer)
    loader = fabric.setup_dataloaders(
        DataLoader(train, batch_size=64 // micro_batches, shuffle=True, drop_last=True)
    )
    engine = samo.SAMO(model, TASKS, aggregator="fairgrad", rho=0.05)

    def losses(batch, tasks):
        logits = model(batch["image"], tasks)
        return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

    for _ in range(epochs):
        closures = []
        for batch in loader:
            closures.append(partial(losses, batch))
            if len(closures) == micro_batches:
                optimizer.zero_grad()
                engine.backward(closures)  # perturbs each separately, aggregates once
                fabric.clip_gradients(model, optimizer, max_norm=5.0)
                optimizer.step()
                closures.clear()

    # Saves objects with a state_dict; load them with fabric.load(out, {..}).
    fabric.save(out, {"model": model, "optimizer": optimizer, "engine": engine})
    found = accuracy(net, test)
    report("test accuracy", found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--out", default="runs/fabric.ckpt")
    main(**vars(parser.parse_args()))
