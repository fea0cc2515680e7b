"""A custom benchmark in one file. Run in this directory:

samo train bring_your_own:Waves --method fairgrad --sharpness samo --out runs/waves
samo compare bring_your_own:Waves --methods ls,fairgrad --sharpness erm,samo --out runs/compare
"""

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassAccuracy

from samo.benchmarks import Benchmark, Defaults, Metric, TensorBatches


class Waves(Benchmark):
    """Noisy waves: is it a sine, a square or a sawtooth, and how many periods does it have?"""

    defaults = Defaults(epochs=10, batch_size=32, lr=3e-3)
    tasks = ("shape", "periods")

    def __init__(self, *, noise=0.5, seed=0):  # --benchmark-option noise=0.3
        accuracy = Metric(lambda: MulticlassAccuracy(3), higher_is_better=True, scale=100, unit="%")
        error = Metric(MeanAbsoluteError, higher_is_better=False)
        self.metrics = {"shape": {"accuracy": accuracy}, "periods": {"error": error}}
        generator = torch.Generator().manual_seed(seed)
        sizes = {"train": 1000, "validation": 300, "test": 300}
        self.data = {split: waves(n, noise, generator) for split, n in sizes.items()}

    def model(self):
        trunk = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        return nn.ModuleDict(
            {"trunk": trunk, "shape": nn.Linear(64, 3), "periods": nn.Linear(64, 1)}
        )

    def batches(self, split, tasks, batch_size, generator=None):
        return TensorBatches(self.data[split], batch_size, generator)

    def outputs(self, model, batch, tasks):
        x, shape, periods = batch
        targets = {"shape": shape, "periods": periods}
        features = model["trunk"](x)
        return {task: (model[task](features).squeeze(-1), targets[task]) for task in tasks}

    def loss(self, task, prediction, target):
        return {"shape": F.cross_entropy, "periods": F.l1_loss}[task](prediction, target)


def waves(n, noise, generator):
    shape = torch.randint(3, (n,), generator=generator)
    periods = 1 + 2 * torch.rand(n, generator=generator)
    turns = periods[:, None] * torch.linspace(0, 1, 64)
    sine = (2 * torch.pi * turns).sin()
    x = torch.stack([sine, sine.sign(), 2 * turns.frac() - 1], dim=1)[torch.arange(n), shape]
    return x + noise * torch.randn(x.shape, generator=generator), shape, periods
