"""Estimators of a task's local gradient, one file each."""

from ._base import Grouping, LocalGradient, Probe, Remembering, Stateful
from ._exact import ExactGradient
from ._groups import TaskGroups
from ._last_layers import LastLayers
from ._perturbation import Perturbation
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
"""All that there are. One that is added here goes through the tests that all have in common."""

__all__ = [
    "ESTIMATORS",
    "SPSA",
    "ExactGradient",
    "Grouping",
    "LastLayers",
    "LocalGradient",
    "Perturbation",
    "PreviousGradient",
    "Probe",
    "RandomDirection",
    "Remembering",
    "Stateful",
    "TaskGroups",
]
