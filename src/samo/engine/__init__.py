"""The engine."""

from ._engine import Engine
from ._result import StepResult

__all__ = ["Engine", "StepResult"]
