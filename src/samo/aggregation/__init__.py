"""Names for aggregation methods: what there is, what each one needs, and how to make one.

The methods are TorchJD's, with the defaults that their papers give, and this package's own where
TorchJD's are slow or do not solve their problem exactly.

Example:
    >>> from samo import aggregation
    >>> aggregation.create("fairgrad", n_tasks=3)
    FairGrad(alpha=2.0)
    >>> aggregation.describe("fairgrad").needs
    'gramian'
"""

from ._cagrad import CAGrad, CAGradWeighting
from ._errors import ConvergenceError
from ._fair_grad import FairGrad, FairGradWeighting
from ._gradvac import GradVac, GradVacWeighting
from ._method import Method
from ._mgda import MGDA, MGDAWeighting
from ._nash_mtl import NashMTL, NashMTLWeighting
from ._pcd import PCD, PCDWeighting
from ._pcgrad import PCGrad, PCGradWeighting
from ._projector import ExactProjector
from ._registry import available, create, describe, method_of
from ._sdmgrad import SDMGradWeighting

__all__ = [
    "CAGrad",
    "CAGradWeighting",
    "ConvergenceError",
    "ExactProjector",
    "FairGrad",
    "FairGradWeighting",
    "GradVac",
    "GradVacWeighting",
    "MGDA",
    "MGDAWeighting",
    "Method",
    "NashMTL",
    "NashMTLWeighting",
    "PCD",
    "PCDWeighting",
    "PCGrad",
    "PCGradWeighting",
    "SDMGradWeighting",
    "available",
    "create",
    "describe",
    "method_of",
]
