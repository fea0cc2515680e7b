"""Metrics from torchmetrics, which is imported lazily because the import takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ._benchmark import Metric

if TYPE_CHECKING:
    import torchmetrics


def lazy(module: str, name: str, *args: Any, **options: Any) -> Callable[[], torchmetrics.Metric]:
    """Returns a function that imports a metric class and instantiates it.

    Args:
        module: The module of the class.
        name: The class.
        *args: Its positional arguments.
        **options: Its keyword arguments.
    """

    def make() -> torchmetrics.Metric:
        made: torchmetrics.Metric = getattr(import_module(module), name)(*args, **options)
        return made

    return make


def percentage(
    name: str,
    *args: Any,
    transform: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Metric:
    """Creates a classification metric in percent, the higher the better.

    Args:
        name: A class of ``torchmetrics.classification``.
        *args: Its positional arguments.
        transform: Applied to the predictions. Binary metrics need one: they would treat a batch of
            logits that are all in [0, 1] as probabilities.
        **options: Its keyword arguments.

    Returns:
        The metric.
    """
    make = lazy("torchmetrics.classification", name, *args, **options)

    def transformed() -> torchmetrics.Metric:
        from torchmetrics.wrappers import LambdaInputTransformer

        return LambdaInputTransformer(make(), transform_pred=transform)

    made = make if transform is None else transformed
    return Metric(made, higher_is_better=True, scale=100.0, unit="%")


def accuracy(classes: int) -> Metric:
    """Creates the top-1 accuracy in percent, for logits ``[N, classes]`` and labels ``[N]``."""
    return percentage("MulticlassAccuracy", classes, average="micro")
