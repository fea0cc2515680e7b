"""Names for aggregation methods: what there is, what each one needs, and how to make one.

The methods are TorchJD's, with the defaults that their papers give.

Example:
    >>> from samo import aggregation
    >>> aggregation.create("fairgrad", n_tasks=3)
    FairGrad(alpha=2.0, max_iters=None)
    >>> aggregation.describe("fairgrad").needs
    'gramian'
"""

from ._cagrad import CAGrad, CAGradWeighting
from ._errors import ConvergenceError
from ._fair_grad import FairGrad, FairGradWeighting
from ._method import Method
from ._mgda import MGDA, MGDAWeighting
from ._nash_mtl import NashMTL, NashMTLWeighting
from ._projector import ExactProjector
from ._registry import available, create, describe, method_of

__all__ = [
    "CAGrad",
    "CAGradWeighting",
    "ConvergenceError",
    "ExactProjector",
    "FairGrad",
    "FairGradWeighting",
    "MGDA",
    "MGDAWeighting",
    "Method",
    "NashMTL",
    "NashMTLWeighting",
    "available",
    "create",
    "describe",
    "method_of",
]
