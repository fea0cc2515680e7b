"""Training runs, and comparisons of them."""

from ..records import RunError
from ..records.schema import reported
from ._chosen import Best, finals
from ._compare import compare
from ._config import LEVELS, RunConfig, configured
from ._evaluate import to_device
from ._plan import Cell, plan
from ._presets import PRESETS, Preset, complete_preset, perturbation
from ._run import Progress, Watch
from ._schedule import SCHEDULES, Schedule
from ._space import Arm
from ._sweep import SweepResult, sweep
from ._sweep_plan import SweepPlan, plan_sweep
from ._train import train
from ._trained import Trained, trained
from ._tuning import Tuning, extended, plan_tuning, tune
from ._workers import Event

__all__ = [
    "LEVELS",
    "PRESETS",
    "SCHEDULES",
    "Arm",
    "Best",
    "Cell",
    "Event",
    "Preset",
    "Progress",
    "RunConfig",
    "RunError",
    "Schedule",
    "SweepPlan",
    "SweepResult",
    "Trained",
    "Tuning",
    "Watch",
    "compare",
    "configured",
    "extended",
    "finals",
    "perturbation",
    "plan",
    "plan_sweep",
    "plan_tuning",
    "complete_preset",
    "reported",
    "sweep",
    "to_device",
    "train",
    "trained",
    "tune",
]
