"""Seeing why: diagnostics of any model and any losses.

Every analysis is called as ``(model, losses, batches, tasks, ..)``: ``losses(batch, tasks)`` maps
the names that it is asked for to scalar mean losses, and the batches can be of any kind. The model
is left as it was. Results are saved as JSON and loaded again by their class.
"""

from ._cosines import Cosines, gradient_cosines
from ._errors import AnalysisError
from ._estimators import Agreement, EstimatorQuality, estimator_quality
from ._hessian import Spectrum, hessian_spectrum
from ._sharpness import Sharpness, sharpness

__all__ = [
    "Agreement",
    "AnalysisError",
    "Cosines",
    "EstimatorQuality",
    "Sharpness",
    "Spectrum",
    "estimator_quality",
    "gradient_cosines",
    "hessian_spectrum",
    "sharpness",
]
