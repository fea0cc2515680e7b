"""Aggregation methods by name: lists, describes and creates them.

The methods are those of TorchJD, with the defaults of their papers, and classes of the same kinds
for methods that TorchJD lacks or for which this package has a faster or exact solver.

A weighting maps the Gramian of the task gradients, ``[K, K]``, to the weights of the tasks,
``[K]``; an aggregator maps the matrix of the gradients, ``[K, m]``, to a direction, ``[m]``; and a
scalarizer maps the losses, ``[K]``, to a scalar. A call raises ``ValueError`` for invalid values,
such as a Gramian that is not finite, losses that are not positive for a method that needs positive
ones, or another number of tasks than before, and `ConvergenceError` if a solver does not converge.

Example:
    >>> from samo import aggregation
    >>> aggregation.create("fairgrad", n_tasks=3)
    FairGrad(alpha=2.0)
    >>> aggregation.describe("fairgrad").needs
    'gramian'
"""

from ._cagrad import CAGrad, CAGradWeighting
from ._combiner import Combiner, TorchJDObject, combiner
from ._conic_grad import ConicGrad, ConicGradWeighting
from ._db_mtl import DBMTL
from ._dwa import DWA
from ._fair_grad import FairGrad, FairGradWeighting
from ._fair_rise import FairRise
from ._go4align import GO4Align
from ._grad_norm import GradNorm, GradNormWeighting
from ._gradvac import GradVac, GradVacWeighting
from ._imtl import IMTL, IMTLWeighting
from ._ldc_mtl import LDCMTL
from ._lookup import available, create, describe, method_of
from ._method import Method
from ._mgda import MGDA, MGDAWeighting
from ._moco import MoCo
from ._nash_mtl import NashMTL, NashMTLWeighting
from ._pcd import PCD, PCDWeighting
from ._pcgrad import PCGrad, PCGradWeighting
from ._projector import ExactProjector
from ._scale_free import ScaleFree
from ._sdmgrad import SDMGradWeighting
from ._sees_losses import SeesLosses
from ._sees_sharpness import SeesSharpness
from ._si import SI
from ._slaw import SLAW
from ._state import capture, restore
from ._stl import STL
from .solvers import ConvergenceError

__all__ = [
    "available",
    "create",
    "describe",
    "method_of",
    "Combiner",
    "combiner",
    "TorchJDObject",
    "capture",
    "restore",
    "Method",
    "ScaleFree",
    "SeesLosses",
    "SeesSharpness",
    "ConvergenceError",
    "ExactProjector",
    "CAGrad",
    "CAGradWeighting",
    "ConicGrad",
    "ConicGradWeighting",
    "DBMTL",
    "DWA",
    "FairGrad",
    "FairGradWeighting",
    "FairRise",
    "GO4Align",
    "GradNorm",
    "GradNormWeighting",
    "GradVac",
    "GradVacWeighting",
    "IMTL",
    "IMTLWeighting",
    "LDCMTL",
    "MGDA",
    "MGDAWeighting",
    "MoCo",
    "NashMTL",
    "NashMTLWeighting",
    "PCD",
    "PCDWeighting",
    "PCGrad",
    "PCGradWeighting",
    "SDMGradWeighting",
    "SI",
    "SLAW",
    "STL",
]
