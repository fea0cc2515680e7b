"""The benchmarks: data, models, losses and metrics of multi-task problems."""

from ._batches import TaskBatches, TensorBatches
from ._benchmark import Benchmark, Defaults, Metric, Split
from ._registry import available, create, get
from .digits import Digits, DigitsDomains
from .tabular import Tabular

__all__ = [
    "Benchmark",
    "Defaults",
    "Digits",
    "DigitsDomains",
    "Metric",
    "Split",
    "Tabular",
    "TaskBatches",
    "TensorBatches",
    "available",
    "create",
    "get",
]
