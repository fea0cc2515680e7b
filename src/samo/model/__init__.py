"""Evaluates the user's model at several points without leaving a trace."""

from ._cut import Cut, cut_of
from ._draws import Traced
from ._graph import Reached, distances, older_than, sequence_number
from ._journal import During, Journal
from ._moved import moved_by
from ._parameters import Held
from ._random import Streams, global_generators, rademacher_, set_states, states_of
from ._replay import Trace
from ._state import devices_of, modules_of, parameters_of, put_back, state_of

__all__ = [
    "Cut",
    "During",
    "Held",
    "Journal",
    "Reached",
    "Streams",
    "Trace",
    "Traced",
    "cut_of",
    "devices_of",
    "distances",
    "global_generators",
    "modules_of",
    "moved_by",
    "older_than",
    "parameters_of",
    "put_back",
    "rademacher_",
    "sequence_number",
    "set_states",
    "state_of",
    "states_of",
]
