"""One process or several: their communication, and the placement of the parameters."""

from ._placement import Fill, Placement
from ._plain import Alone, Replicated
from ._ranks import Agreement, Ranks
from ._world import World, check_ranks, unwrapped, world_of

__all__ = [
    "Agreement",
    "Alone",
    "Fill",
    "Placement",
    "Ranks",
    "Replicated",
    "World",
    "check_ranks",
    "unwrapped",
    "world_of",
]
