"""The customary metrics of classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._benchmark import Metric

if TYPE_CHECKING:
    import torchmetrics


def accuracy(classes: int) -> Metric:
    """The share of examples whose class is predicted (top-1), in percent.

    Args:
        classes: The number of classes.

    Returns:
        The metric, for logits of shape ``[N, classes]`` and labels of shape ``[N]``.
    """

    def make() -> torchmetrics.Metric:
        # Imported here because it takes seconds, which only training needs to spend.
        from torchmetrics.classification import MulticlassAccuracy

        return MulticlassAccuracy(num_classes=classes, average="micro")

    return Metric(make, higher_is_better=True, scale=100.0, unit="%")
