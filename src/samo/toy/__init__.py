"""Toy problems: two losses of a point in the plane.

`setting` specifies a descent, `run` runs it with the `samo.Engine` that trains networks, and
`samo.report.landscape` and `samo.report.loss_space` plot the trajectories. Needs ``samo[train]``.
"""

from ._files import load, save
from ._problem import Box, Point, Problem
from ._problems import FRONT, PROBLEMS, VALLEY
from ._run import run
from ._setting import Setting, setting
from ._trajectory import Trajectory

__all__ = [
    "FRONT",
    "PROBLEMS",
    "VALLEY",
    "Box",
    "Point",
    "Problem",
    "Setting",
    "Trajectory",
    "load",
    "run",
    "save",
    "setting",
]
