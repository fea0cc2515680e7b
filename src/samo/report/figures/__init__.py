"""Figures, drawn once for files and for the page."""

from ._analyses import cosines, estimators, sharpness, spectrum
from ._comparison import delta_m, intervals, learning_curves, rho_grid
from ._cost import memory_figure, run_costs, time_figure
from ._course import conflict_map, course
from ._features import features
from ._history import conflicts, gradient_norms, task_weights
from ._planes import loss_planes
from ._predictions import DensePictures, predictions
from ._toy import landscape, loss_space

__all__ = [
    "DensePictures",
    "conflict_map",
    "conflicts",
    "cosines",
    "course",
    "delta_m",
    "estimators",
    "features",
    "gradient_norms",
    "intervals",
    "landscape",
    "learning_curves",
    "loss_planes",
    "loss_space",
    "memory_figure",
    "predictions",
    "rho_grid",
    "run_costs",
    "sharpness",
    "spectrum",
    "task_weights",
    "time_figure",
]
