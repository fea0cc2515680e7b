"""Targets, losses and metrics of the three kinds of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import torch
import torch.nn.functional as F
from torch import Tensor

from .._benchmark import Metric
from ._columns import Floats, Integers, Numbers, Texts
from ._labels import Labels
from ._table import Table, standardised

if TYPE_CHECKING:
    import torchmetrics


class Task(ABC):
    """A column to be predicted.

    Attributes:
        targets: The targets of all rows, shape ``[rows]``; NaN or -1 where the label is missing.
        outputs: How many numbers the model gives for it.
        metrics: Its metrics by name.
    """

    targets: Tensor
    outputs: int
    metrics: Mapping[str, Metric]

    @abstractmethod
    def labelled(self, target: Tensor) -> Tensor:
        """Tells which targets are there, as a mask."""

    @abstractmethod
    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean loss of predictions (``[n]`` or ``[n, outputs]``) and targets."""


def task(table: Table, labels: Labels, train: Integers) -> Task:
    """Makes the targets, the loss and the metrics of a task.

    Args:
        table: The file.
        labels: The labels.
        train: The training rows, the only ones that statistics are from.

    Returns:
        The task.
    """
    column = labels.column
    if isinstance(column, Numbers):
        return Regression(*standardised(table, labels.task, column, train))
    return Binary(column) if labels.kind == "binary" else MultiClass(column)


@final
class Regression(Task):
    """Numbers, standardised with the training rows' mean and standard deviation.

    The loss is the mean squared error of standardised values. MAE and RMSE are in the column's own
    unit. R² is the first metric, which decides on validation data: it has no unit, so that it can
    be averaged with other tasks' metrics; in percent, as they are.

    Args:
        values: The standardised labels.
        scale: The standard deviation.
    """

    def __init__(self, values: Floats, scale: float) -> None:
        self.targets = torch.from_numpy(values).to(torch.float32)
        self.outputs = 1
        self.metrics = {
            "R²": Metric(_r_squared, higher_is_better=True, scale=100.0, unit="%"),
            "MAE": Metric(_absolute_error, higher_is_better=False, scale=scale),
            "RMSE": Metric(_root_squared_error, higher_is_better=False, scale=scale),
        }

    def labelled(self, target: Tensor) -> Tensor:
        """Tells which targets are no NaN."""
        return ~target.isnan()

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean squared error."""
        return F.mse_loss(prediction, target)


@final
class Binary(Task):
    """One of two classes. The second one, in order, is the positive one of AUROC and F1.

    Args:
        classes: The labels.
    """

    def __init__(self, classes: Texts) -> None:
        self.targets = torch.from_numpy(classes.keys)
        self.outputs = 1
        self.metrics = {
            name: Metric(make, higher_is_better=True, scale=100.0, unit="%")
            for name, make in (("accuracy", _accuracy), ("AUROC", _auroc), ("F1", _f1))
        }

    def labelled(self, target: Tensor) -> Tensor:
        """Tells which targets are a class."""
        return target >= 0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype))


@final
class MultiClass(Task):
    """One of several classes.

    Args:
        classes: The labels.
    """

    def __init__(self, classes: Texts) -> None:
        self.targets = torch.from_numpy(classes.keys)
        self.outputs = n = len(classes.levels)

        def metric(kind: str, average: str) -> Metric:
            def make() -> torchmetrics.Metric:
                from torchmetrics import classification

                made: torchmetrics.Metric = getattr(classification, kind)(n, average=average)
                return made

            return Metric(make, higher_is_better=True, scale=100.0, unit="%")

        self.metrics = {
            "accuracy": metric("MulticlassAccuracy", "micro"),
            "macro F1": metric("MulticlassF1Score", "macro"),
        }

    def labelled(self, target: Tensor) -> Tensor:
        """Tells which targets are a class."""
        return target >= 0

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean cross-entropy."""
        return F.cross_entropy(prediction, target)


def _r_squared() -> torchmetrics.Metric:
    from torchmetrics import R2Score

    return R2Score()


def _absolute_error() -> torchmetrics.Metric:
    from torchmetrics import MeanAbsoluteError

    return MeanAbsoluteError()


def _root_squared_error() -> torchmetrics.Metric:
    from torchmetrics import MeanSquaredError

    return MeanSquaredError(squared=False)


def _accuracy() -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryAccuracy

    return _of_logits(BinaryAccuracy())


def _auroc() -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryAUROC

    return _of_logits(BinaryAUROC())


def _f1() -> torchmetrics.Metric:
    from torchmetrics.classification import BinaryF1Score

    return _of_logits(BinaryF1Score())


def _of_logits(metric: torchmetrics.Metric) -> torchmetrics.Metric:
    # By themselves they would take a batch of logits that all lie in [0, 1] for probabilities.
    from torchmetrics.wrappers import LambdaInputTransformer

    return LambdaInputTransformer(metric, transform_pred=torch.sigmoid)
