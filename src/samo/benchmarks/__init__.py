"""The benchmarks: data, models, losses and metrics of multi-task problems."""

from ._batches import TaskBatches, TensorBatches
from ._benchmark import Benchmark, Defaults, Metric, Split
from ._published import (
    PublishedColumn,
    PublishedNote,
    PublishedTable,
    published,
    published_baseline,
)
from ._registry import available, create, get
from .digits import Digits, DigitsDomains

__all__ = [
    "Benchmark",
    "Defaults",
    "Digits",
    "DigitsDomains",
    "Metric",
    "PublishedColumn",
    "PublishedNote",
    "PublishedTable",
    "Split",
    "TaskBatches",
    "TensorBatches",
    "available",
    "create",
    "get",
    "published",
    "published_baseline",
]
