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
from .celeba import CelebA
from .digits import Digits, DigitsDomains
from .multimnist import MultiFashion, MultiFashionMNIST, MultiMNIST
from .office_home import OfficeHome
from .qm9 import QM9
from .tabular import Tabular

__all__ = [
    "Benchmark",
    "CelebA",
    "Defaults",
    "Digits",
    "DigitsDomains",
    "Metric",
    "MultiFashion",
    "MultiFashionMNIST",
    "MultiMNIST",
    "OfficeHome",
    "QM9",
    "PublishedColumn",
    "PublishedNote",
    "PublishedTable",
    "Split",
    "Tabular",
    "TaskBatches",
    "TensorBatches",
    "available",
    "create",
    "get",
    "published",
    "published_baseline",
]
