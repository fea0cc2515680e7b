"""A custom estimator: the steepest of a few random directions.

python own_estimator.py --epochs 15
"""

import argparse

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from turned_digits import TASKS, Net, accuracy, data, report

import samo


class SteepestOf(samo.LocalGradient):
    """Draws directions for each task and returns the steepest, without a backward pass."""

    def __init__(self, directions=4, mu=0.01):
        self.directions, self.mu = directions, mu

    def estimate(self, probe):
        best, most = None, -torch.inf
        for _ in range(self.directions):
            z = probe.draw("gaussian")  # from the engine's generator
            rise = probe.loss_at(z, self.mu) - probe.loss  # evaluates this task only
            if rise > most:
                best, most = z, rise
        return best.mul_(probe.mean.norm() / best.norm())  # with the norm of the mean gradient

    def __repr__(self):
        return f"SteepestOf(directions={self.directions}, mu={self.mu})"


def main(epochs=15):
    found = {}
    for local in (samo.RandomDirection(), SteepestOf(4), samo.ExactGradient()):
        torch.manual_seed(0)
        train, test = data()
        loader = DataLoader(train, batch_size=64, shuffle=True)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        # To isolate the effect of the estimate, perturb only the trunk (heads are perturbed along
        # their exact gradients), and only along the estimate (alpha=0).
        options = {"alpha": 0.0, "where": lambda name, _: name.startswith("trunk.")}
        engine = samo.SAMO(model, TASKS, aggregator="ls", rho=0.05, local=local, **options)
        rises = []
        for _ in range(epochs):
            for batch in loader:

                def losses(tasks):
                    logits = model(batch["image"], tasks)
                    return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

                optimizer.zero_grad()
                result = engine.backward(losses)
                optimizer.step()
                rises += [rise.item() for rise in result.sharpness.values()]
        found[repr(local)] = sum(rises) / len(rises)
        print(f"{local}: mean increase of a loss {found[repr(local)]:.5f}")
        report("    test accuracy", accuracy(model, test))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
