"""Sharpness-aware multi-task optimisation for PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import metrics
from ._errors import ClosureError, NonFiniteError, PartitionError, RankError
from ._version import __version__
from .perturbations import (
    SPSA,
    ExactGradient,
    LastLayers,
    LocalGradient,
    Momentum,
    Perturbation,
    PreviousGradient,
    Probe,
    RandomDirection,
    TaskGroups,
)

if TYPE_CHECKING:
    from . import aggregation, analysis
    from ._presets import ERM, FMTL, GSAM, LSAM, MSAM, SAMO
    from .engine import Engine, StepResult

# Names that need TorchJD are imported at first use: TorchJD imports solvers such as cvxpy if they
# are installed, which takes seconds.
_LAZY = dict.fromkeys(("ERM", "FMTL", "GSAM", "LSAM", "MSAM", "SAMO"), "._presets")
_LAZY |= {
    "Engine": ".engine",
    "StepResult": ".engine",
    "aggregation": ".aggregation",
    "analysis": ".analysis",
}

__all__ = [
    "ClosureError",
    "ERM",
    "FMTL",
    "GSAM",
    "LSAM",
    "SAMO",
    "SPSA",
    "Engine",
    "ExactGradient",
    "LastLayers",
    "LocalGradient",
    "MSAM",
    "Momentum",
    "NonFiniteError",
    "PartitionError",
    "Perturbation",
    "PreviousGradient",
    "Probe",
    "RandomDirection",
    "RankError",
    "StepResult",
    "TaskGroups",
    "__version__",
    "aggregation",
    "analysis",
    "metrics",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LAZY[name], __name__)
    return module if name in {"aggregation", "analysis"} else getattr(module, name)
