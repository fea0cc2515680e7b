"""The cost of a step, compared with plain backprop and with the passes that it needs."""

from ._cases import CASES, Case, Workload, build, case_sizes
from ._machine import machine
from ._measure import Conditions, Watch, conditions, measure, read_results
from ._meter import Meter, meter
from ._passes import Arithmetic, Backward, Forward, recorded
from ._statistics import MedianRange, median_ratio, quartiles
from ._step_costs import StepCost, step_costs
from ._subjects import PLAIN, PRESETS, SUBJECTS, Subject, chosen

__all__ = [
    "CASES",
    "PLAIN",
    "PRESETS",
    "SUBJECTS",
    "Arithmetic",
    "Backward",
    "Case",
    "Conditions",
    "Forward",
    "MedianRange",
    "Meter",
    "StepCost",
    "Subject",
    "Watch",
    "Workload",
    "build",
    "case_sizes",
    "chosen",
    "conditions",
    "machine",
    "measure",
    "median_ratio",
    "meter",
    "quartiles",
    "read_results",
    "recorded",
    "step_costs",
]
