"""Seeing why: diagnostics of any model and any losses."""

from ._errors import AnalysisError
from ._features import Features, features
from ._history import History, history
from ._landscape import Landscape, landscape
from ._monitor import Monitor
from ._plane import Plane, plane_through, random_plane, trajectory_plane
from ._trajectory import Trajectory, trajectory

__all__ = [
    "AnalysisError",
    "Features",
    "History",
    "Landscape",
    "Monitor",
    "Plane",
    "Trajectory",
    "features",
    "history",
    "landscape",
    "plane_through",
    "random_plane",
    "trajectory",
    "trajectory_plane",
]
