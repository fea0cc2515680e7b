"""A custom aggregator: tasks are weighted by their agreement with the other tasks.

python own_aggregator.py --epochs 15
"""

import argparse

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix
from turned_digits import TASKS, Net, accuracy, data, report

import samo


class Agreement(Weighting[PSDMatrix]):
    """Weights that decrease with conflict: the softmax of a task's mean cosine with all tasks.

    It needs only the Gramian G of the task gradients, ``[K, K]``, so the engine never passes it the
    gradients, however large the model. If you need the gradients themselves, derive from
    ``torchjd.aggregation.Aggregator``; if the losses suffice, from
    ``torchjd.scalarization.Scalarizer``. Tensor attributes are part of ``engine.state_dict()``
    automatically.
    """

    def __init__(self, temperature=1.0):
        super().__init__()
        self.temperature = temperature

    def forward(self, gramian):
        lengths = gramian.diagonal().sqrt().clamp(min=1e-30)
        cosines = gramian / lengths / lengths[:, None]
        # Rescale all gradients to the same norm before weighting.
        return (cosines.mean(1) / self.temperature).softmax(0) * lengths.mean() / lengths


def main(epochs=15):
    found = {}
    for name, aggregator in {"sum": "ls", "agreement": Agreement(temperature=0.5)}.items():
        torch.manual_seed(0)
        train, test = data()
        loader = DataLoader(train, batch_size=64, shuffle=True)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        engine = samo.GSAM(model, TASKS, aggregator=aggregator, rho=0.05)
        for _ in range(epochs):
            for batch in loader:

                def losses(tasks):
                    logits = model(batch["image"], tasks)
                    return {task: F.cross_entropy(logits[task], batch[task]) for task in tasks}

                optimizer.zero_grad()
                result = engine.backward(losses)
                optimizer.step()
        found[name] = accuracy(model, test)
        report(f"{name}: test accuracy", found[name])
        print(f"{name}: last weights {[round(w, 3) for w in result.weights.tolist()]}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
