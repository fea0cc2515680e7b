"""The engine and its steps."""

from ._batch import Losses, confined, evaluated
from ._check import ClosureReport
from ._claims import Declared, declared_parameters
from ._engine import Engine
from ._finite import Guard
from ._partition import Assignment, Partition
from ._point import Point, displaced, point_of
from ._result import StepResult
from ._setting import Level, Setting, checked_tasks, make_setting, stable_repr
from ._step import Step

__all__ = [
    "Assignment",
    "ClosureReport",
    "Declared",
    "Engine",
    "Guard",
    "Level",
    "Losses",
    "Partition",
    "Point",
    "Setting",
    "Step",
    "StepResult",
    "checked_tasks",
    "confined",
    "declared_parameters",
    "displaced",
    "evaluated",
    "point_of",
    "make_setting",
    "stable_repr",
]
