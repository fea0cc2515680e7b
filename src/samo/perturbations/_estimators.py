"""The list of all estimators."""

from __future__ import annotations

from ._estimator import LocalGradient
from ._exact import ExactGradient
from ._groups import TaskGroups
from ._last_layers import LastLayers
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
