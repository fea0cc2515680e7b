"""The benchmarks: data, models, losses and metrics of multi-task problems."""

from ._batches import TaskBatches, TensorBatches
from ._benchmark import Benchmark, Defaults, Metric, Split
from ._errors import DataError
from ._published import (
    PublishedColumn,
    PublishedNote,
    PublishedTable,
    published,
    published_baseline,
)
from ._registry import available, create, get
from .dense import Cityscapes, DensePrediction, NYUv2
from .digits import Digits, DigitsDomains
from .scenes import Scenes

__all__ = [
    "Benchmark",
    "Cityscapes",
    "DataError",
    "Defaults",
    "DensePrediction",
    "Digits",
    "DigitsDomains",
    "Metric",
    "NYUv2",
    "PublishedColumn",
    "PublishedNote",
    "PublishedTable",
    "Scenes",
    "Split",
    "TaskBatches",
    "TensorBatches",
    "available",
    "create",
    "get",
    "published",
    "published_baseline",
]
