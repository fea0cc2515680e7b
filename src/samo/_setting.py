"""What an engine's steps have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ._partition import Partition
from ._perturbation import Perturbation
from ._placement import Placement
from ._random import Streams
from ._ranks import Ranks
from ._trace import Tracer
from ._workspace import Workspace
from .aggregation._combine import Combiner


@dataclass(frozen=True)
class Setting:
    """What an engine's steps have in common."""

    model: nn.Module
    tasks: tuple[str, ...]
    perturbation: Perturbation | None
    combiner: Combiner
    flat_combiner: Combiner | None
    partition: Partition
    streams: Streams
    tracer: Tracer
    workspace: Workspace
    ranks: Ranks
    placement: Placement
    sync_perturbation: bool
