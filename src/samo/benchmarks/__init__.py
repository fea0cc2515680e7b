"""The benchmarks: data, models, losses and metrics of multi-task problems."""

from ._batches import TaskBatches, TensorBatches
from ._benchmark import Benchmark, Defaults, Metric, Split
from ._registry import available, create, get
from .digits import Digits, DigitsDomains
from .qm9 import QM9

__all__ = [
    "Benchmark",
    "Defaults",
    "Digits",
    "DigitsDomains",
    "Metric",
    "QM9",
    "Split",
    "TaskBatches",
    "TensorBatches",
    "available",
    "create",
    "get",
]
