"""Evaluates the user's model at several points without leaving a trace."""

from ._graph import Reached, distances
from ._random import Streams, global_generators, rademacher_, set_states, states_of
from ._state import ModelState, devices_of, modules_of, parameters_of
from ._trace import Point, Trace, Traced, displaced, point_of, split

__all__ = [
    "ModelState",
    "Point",
    "Reached",
    "Streams",
    "Trace",
    "Traced",
    "devices_of",
    "displaced",
    "distances",
    "global_generators",
    "modules_of",
    "parameters_of",
    "point_of",
    "rademacher_",
    "set_states",
    "split",
    "states_of",
]
