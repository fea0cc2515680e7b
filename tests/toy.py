"""A small benchmark of one's own, not registered: ``tests.toy:Toy``.

Its tasks are of two kinds with metrics of two directions, some batches lack the labels of one task,
the model has dropout, and the data is jittered with the global generators of numpy and Python. So a
run of it draws from every generator that a checkpoint has to hold.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import MulticlassAccuracy

from samo.benchmarks import Benchmark, Defaults, Metric, Split, TensorBatches

ASKED_FOR: list[str] = []
"""The splits that were gone through, in order."""


class _Jittered:
    def __init__(self, batches: TensorBatches, split: Split, tasks: Sequence[str]) -> None:
        self.batches = batches
        self.split = split
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        ASKED_FOR.append(self.split)
        for i, (x, sign, size) in enumerate(self.batches):
            batch = {"x": x, "sign": sign, "size": size}
            if self.split == "train":
                scale = 1 + 0.01 * random.random() + 0.01 * float(np.random.rand())  # noqa: NPY002
                batch["x"] = scale * x
                if i % 3 == 2:
                    del batch["size"]
            if any(task in batch for task in self.tasks):
                yield batch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict({"sign": nn.Linear(16, 2), "size": nn.Linear(16, 1)})

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {task: self.heads[task](features) for task in tasks}


class Toy(Benchmark):
    """Is the sum of four numbers positive, and how large is it?"""

    defaults: ClassVar[Defaults] = Defaults(
        epochs=4, batch_size=8, lr=1e-2, rho=0.05, rho_grid=(0.05, 0.1)
    )
    tasks = ("sign", "size")
    metrics: Mapping[str, Mapping[str, Metric]] = {
        "sign": {
            "accuracy": Metric(
                lambda: MulticlassAccuracy(2, average="micro"), True, scale=100, unit="%"
            )
        },
        "size": {"error": Metric(MeanAbsoluteError, False)},
    }

    def __init__(self, *, n: int = 40) -> None:
        if n < 8:
            raise ValueError(f"n must be at least 8; found {n}.")
        generator = Generator().manual_seed(3)
        self.data: dict[str, tuple[Tensor, ...]] = {}
        for split in ("train", "validation", "test"):
            x = torch.randn(n, 4, generator=generator)
            self.data[split] = (x, (x.sum(1) > 0).long(), x.sum(1).abs())

    def model(self) -> nn.Module:
        return Net()

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> _Jittered:
        return _Jittered(TensorBatches(self.data[split], batch_size, generator), split, tasks)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        present = [task for task in tasks if task in batch]
        predictions = model(batch["x"], present)
        if "size" in predictions:
            predictions["size"] = predictions["size"].squeeze(1)
        return {task: (predictions[task], batch[task]) for task in present}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        if task == "sign":
            return F.cross_entropy(prediction, target)
        return F.mse_loss(prediction, target)


class Hanging(Toy):
    """Hangs in the middle of its third epoch, where the environment says so, until it is killed."""

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> Any:
        batches = super().batches(split, tasks, batch_size, generator)
        sign = os.environ.get("TOY_HANGS")
        return _Hanging(batches, Path(sign)) if sign and split == "train" and generator else batches


class _Hanging:
    def __init__(self, batches: _Jittered, sign: Path) -> None:
        self.batches = batches
        self.sign = sign
        self.epoch = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.epoch += 1
        for i, batch in enumerate(self.batches):
            if self.epoch == 3 and i == 2:
                self.sign.touch()
                time.sleep(600)
            yield batch


class Faulty(Toy):
    """Fails as its size says: with an error, or by the death of the process."""

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        n = len(self.data["train"][0])
        if n == 41:
            raise ZeroDivisionError("the loss is faulty")
        if n == 42:
            os._exit(9)
        return super().loss(task, prediction, target)
