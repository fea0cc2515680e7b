"""Targets, losses and metrics of the three kinds of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from .._benchmark import Metric
from .._metrics import accuracy, lazy, percentage
from ._columns import Floats, Integers, Numbers, Texts
from ._labels import Labels
from ._table import TableFile, standardised


class Task(ABC):
    """A column to predict.

    Attributes:
        targets: The targets of all rows, shape ``[rows]``; NaN or -1 for a missing label.
        outputs: The number of outputs of the model.
        metrics: The metrics by name.
    """

    targets: Tensor
    outputs: int
    metrics: Mapping[str, Metric]

    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """Returns a mask of the targets that are not missing."""

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean loss of predictions (``[n]`` or ``[n, outputs]``) and targets."""


def make_task(table: TableFile, labels: Labels, train: Integers) -> Task:
    """Creates a task from its labels, with statistics of the training rows only."""
    column = labels.column
    if isinstance(column, Numbers):
        return Regression(*standardised(table, labels.task, column, train))
    return Binary(column) if labels.kind == "binary" else MultiClass(column)


@final
class Regression(Task):
    """Numbers, standardised by mean and standard deviation of the training rows.

    The loss is the mean squared error of standardised values. MAE and RMSE are in the unit of the
    column. R², in percent, is the first metric, which determines the reported epoch: it has no
    unit, so it can be averaged with the metrics of other tasks.

    Args:
        values: The standardised labels.
        scale: The standard deviation.
    """

    def __init__(self, values: Floats, scale: float) -> None:
        self.targets = torch.from_numpy(values).to(torch.float32)
        self.outputs = 1
        error = partial(Metric, higher_is_better=False, scale=scale)
        self.metrics = {
            "R²": Metric(
                lazy("torchmetrics", "R2Score"), higher_is_better=True, scale=100.0, unit="%"
            ),
            "MAE": error(lazy("torchmetrics", "MeanAbsoluteError")),
            "RMSE": error(lazy("torchmetrics", "MeanSquaredError", squared=False)),
        }

    def labelled(self, target: Tensor) -> Tensor:
        return ~target.isnan()

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target)


@final
class Binary(Task):
    """One of two classes. The second, in order, is the positive class of AUROC and F1.

    The loss is the mean binary cross-entropy.

    Args:
        classes: The labels.
    """

    def __init__(self, classes: Texts) -> None:
        self.targets = torch.from_numpy(classes.keys)
        self.outputs = 1
        kinds = {"accuracy": "BinaryAccuracy", "AUROC": "BinaryAUROC", "F1": "BinaryF1Score"}
        self.metrics = {
            name: percentage(kind, transform=torch.sigmoid) for name, kind in kinds.items()
        }

    def labelled(self, target: Tensor) -> Tensor:
        return target >= 0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype))


@final
class MultiClass(Task):
    """One of several classes. The loss is the mean cross-entropy.

    Args:
        classes: The labels.
    """

    def __init__(self, classes: Texts) -> None:
        self.targets = torch.from_numpy(classes.keys)
        self.outputs = n = len(classes.levels)
        self.metrics = {
            "accuracy": accuracy(n),
            "macro F1": percentage("MulticlassF1Score", n, average="macro"),
        }

    def labelled(self, target: Tensor) -> Tensor:
        return target >= 0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target)
