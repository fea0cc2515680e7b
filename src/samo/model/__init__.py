"""Evaluates the user's model at several points without leaving a trace."""

from ._cut import Cut, cut_of
from ._draws import Traced
from ._graph import Reached, distances
from ._random import Streams, global_generators, rademacher_, set_states, states_of
from ._replay import Trace
from ._state import devices_of, modules_of, parameters_of, put_back, state_of

__all__ = [
    "Cut",
    "Reached",
    "Streams",
    "Trace",
    "Traced",
    "cut_of",
    "devices_of",
    "distances",
    "global_generators",
    "modules_of",
    "parameters_of",
    "put_back",
    "rademacher_",
    "set_states",
    "state_of",
    "states_of",
]
