"""The results of ``samo analyze``."""

from __future__ import annotations

from ._cosines import Cosines
from ._estimators import EstimatorQuality
from ._features import Features
from ._hessian import Spectrum
from ._landscape import Landscape
from ._results import Result
from ._sharpness import Sharpness

KINDS: tuple[type[Result], ...] = (
    Spectrum,
    Cosines,
    Sharpness,
    EstimatorQuality,
    Landscape,
    Features,
)
"""All kinds that a run's analysis/ may hold."""
