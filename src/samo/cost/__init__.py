"""What a step costs, against the arithmetic that it needs."""

from ._cases import CASES, Case, Problem, build
from ._machine import machine
from ._measure import Setting, Watch, load, measure, setting
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
    "Forward",
    "Meter",
    "Problem",
    "Row",
    "Setting",
    "Spread",
    "Subject",
    "Watch",
    "build",
    "chosen",
    "load",
    "machine",
    "measure",
    "meter",
    "one_pass",
    "quartiles",
    "ratio",
    "recorded",
    "rows",
    "setting",
]
