"""The perturbation, and estimators of a task's local gradient, one file each."""

from ._estimator import LocalGradient, Noise, Probe
from ._estimators import ESTIMATORS
from ._exact import ExactGradient
from ._groups import TaskGroups
from ._last_layers import LastLayers
from ._momentum import Momentum
from ._perturbation import Displacement, Perturbation, Where
from ._previous import PreviousGradient
from ._random_direction import RandomDirection
from ._running_mean import RunningMean
from ._spsa import SPSA

__all__ = [
    "ESTIMATORS",
    "SPSA",
    "Displacement",
    "ExactGradient",
    "LastLayers",
    "LocalGradient",
    "Momentum",
    "Noise",
    "Perturbation",
    "PreviousGradient",
    "Probe",
    "RandomDirection",
    "RunningMean",
    "TaskGroups",
    "Where",
]
