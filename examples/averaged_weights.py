"""Averaged weights: a moving average of the weights, tested beside the weights themselves.

python averaged_weights.py --epochs 15
"""

import argparse

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


def main(epochs=15, decay=0.98):
    torch.manual_seed(0)
    train, test = data()
    loader = DataLoader(train, batch_size=64, shuffle=True)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    engine = samo.GSAM(model, TASKS, aggregator="fairgrad", rho=0.05)

    def average(averages, weights, updates):  # a smaller decay for the first steps
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        get_ema_multi_avg_fn(now)(averages, weights, updates)

    averaged = AveragedModel(model, multi_avg_fn=average)

    for _ in range(epochs):
        for batch in loader:

            def losses(tasks):
                logits = model(batch["image"], tasks)
                return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

            optimizer.zero_grad()
            engine.backward(losses)
            optimizer.step()
            averaged.update_parameters(model)  # after each step

    # BatchNorm's statistics of the averaged weights, from a pass through the training data.
    update_bn((batch["image"] for batch in loader), averaged)
    found = {"raw": accuracy(model, test), "ema": accuracy(averaged.module, test)}
    for name, scores in found.items():
        report(f"test accuracy, {name} weights", scores)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--decay", type=float, default=0.98)
    main(**vars(parser.parse_args()))
