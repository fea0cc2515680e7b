"""Seeing why: diagnostics of any model and any losses.

Every analysis is called as ``(model, losses, batches, tasks, ..)``: ``losses(batch, tasks)`` maps
the names that it is asked for to scalar mean losses, and the batches can be of any kind. The model
is left as it was. Results are saved as JSON and loaded again by their class.
"""

from ._cosines import Cosines, gradient_cosines
from ._errors import AnalysisError
from ._estimators import Agreement, EstimatorQuality, estimator_quality
from ._features import Features, features
from ._hessian import Spectrum, hessian_spectrum
from ._history import History, history
from ._landscape import Landscape, landscape
from ._monitor import Monitor
from ._plane import Plane, plane_through, random_plane, trajectory_plane
from ._sharpness import Sharpness, sharpness
from ._step_means import StepMeans
from ._trajectory import Trajectory, trajectory

__all__ = [
    "Agreement",
    "AnalysisError",
    "Cosines",
    "EstimatorQuality",
    "Features",
    "History",
    "Landscape",
    "Monitor",
    "Plane",
    "Sharpness",
    "Spectrum",
    "StepMeans",
    "Trajectory",
    "estimator_quality",
    "features",
    "gradient_cosines",
    "hessian_spectrum",
    "history",
    "landscape",
    "plane_through",
    "random_plane",
    "sharpness",
    "trajectory",
    "trajectory_plane",
]
