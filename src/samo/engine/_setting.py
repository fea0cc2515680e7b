"""What an engine's steps have in common."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from samo.aggregation._combiner import Combiner
from samo.distributed._placement import Placement
from samo.distributed._ranks import Ranks
from samo.engine._partition import Partition
from samo.model._random import Streams
from samo.model._trace import Tracer
from samo.perturbations._perturbation import Perturbation
from samo.tensors._workspace import Workspace


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
