"""The benchmarks: data, models, losses and metrics of multi-task problems."""

from ._batches import TaskBatches, TensorBatches
from ._benchmark import Benchmark, Defaults, Metric, OptimizerName, Split
from ._errors import DataError
from ._published import (
    PublishedColumn,
    PublishedNote,
    PublishedTable,
    published,
    published_baseline,
)
from ._registry import available, create, get
from .celeba import CelebA
from .dense import Cityscapes, DensePrediction, NYUv2
from .digits import Digits, DigitsDomains
from .multimnist import MultiFashion, MultiFashionMNIST, MultiMNIST
from .office_home import OfficeHome
from .qm9 import QM9
from .scenes import Scenes
from .tabular import Tabular

__all__ = [
    "Benchmark",
    "CelebA",
    "Cityscapes",
    "DataError",
    "Defaults",
    "DensePrediction",
    "Digits",
    "DigitsDomains",
    "Metric",
    "MultiFashion",
    "MultiFashionMNIST",
    "MultiMNIST",
    "NYUv2",
    "OfficeHome",
    "OptimizerName",
    "PublishedColumn",
    "PublishedNote",
    "PublishedTable",
    "QM9",
    "Scenes",
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
