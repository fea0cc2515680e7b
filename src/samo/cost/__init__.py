"""The cost of a step, compared with the forward and backward passes that it needs."""

from ._cases import CASES, Case, Workload, build, case_sizes
from ._machine import machine
from ._measure import Conditions, Watch, conditions, measure, read_results
from ._meter import Meter, meter
from ._passes import Arithmetic, Backward, Forward, one_pass, recorded
from ._rows import Row, rows
from ._statistics import Spread, quartiles, ratio
from ._subjects import SUBJECTS, Subject, chosen

__all__ = [
    "CASES",
    "SUBJECTS",
    "Arithmetic",
    "Backward",
    "Case",
    "Conditions",
    "Forward",
    "Meter",
    "Row",
    "Spread",
    "Subject",
    "Watch",
    "Workload",
    "build",
    "case_sizes",
    "chosen",
    "conditions",
    "machine",
    "measure",
    "meter",
    "one_pass",
    "quartiles",
    "ratio",
    "read_results",
    "recorded",
    "rows",
]
