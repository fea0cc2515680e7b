"""The perturbation, and estimators of a task's local gradient, one file each."""

from ._estimator import LocalGradient, Noise, Probe
from ._exact import ExactGradient
from ._groups import TaskGroups
from ._last_layers import LastLayers
from ._perturbation import Perturbation, Where
from ._previous import PreviousGradient
from ._random_direction import RandomDirection
from ._spsa import SPSA

ESTIMATORS: tuple[type[LocalGradient], ...] = (
    ExactGradient,
    SPSA,
    PreviousGradient,
    RandomDirection,
    TaskGroups,
    LastLayers,
)
"""All estimators; the common tests run on each of them."""

__all__ = [
    "ESTIMATORS",
    "SPSA",
    "ExactGradient",
    "LastLayers",
    "LocalGradient",
    "Noise",
    "Perturbation",
    "PreviousGradient",
    "Probe",
    "RandomDirection",
    "TaskGroups",
    "Where",
]
