"""Diagnostics of any model with any losses.

Every analysis is called as ``(model, losses, batches, tasks, ..)``: ``losses(batch, tasks)`` maps
the requested tasks to scalar mean losses, and batches can be any objects. The model is unchanged
afterwards. Results are saved as JSON and loaded by their class.
"""

from ._cosines import Cosines, gradient_cosines
from ._data import Losses
from ._errors import AnalysisError
from ._estimators import Agreement, EstimatorQuality, estimator_quality
from ._features import Features, features
from ._hessian import Spectrum, hessian_spectrum
from ._history import History, history
from ._landscape import Landscape, landscape
from ._monitor import Monitor
from ._plane import Plane, plane_through, random_plane, trajectory_plane
from ._results import FORMAT, Result
from ._sharpness import Sharpness, sharpness
from ._step_means import StepMeans
from ._trajectory import Trajectory, trajectory

KINDS: tuple[type[Result], ...] = (
    Spectrum,
    Cosines,
    Sharpness,
    EstimatorQuality,
    Landscape,
    Features,
)
"""The kinds of results of ``samo analyze``, in the order of reports."""

__all__ = [
    "FORMAT",
    "KINDS",
    "Agreement",
    "AnalysisError",
    "Cosines",
    "EstimatorQuality",
    "Features",
    "History",
    "Landscape",
    "Losses",
    "Monitor",
    "Plane",
    "Result",
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
