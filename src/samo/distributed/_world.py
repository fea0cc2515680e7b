"""From a model and a process group to the ranks of an engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from samo.aggregation._combiner import Combiner, WholeMatrix
from samo.distributed._placement import Placement, Replicated
from samo.distributed._ranks import Alone, Ranks
from samo.model._random import Streams
from samo.perturbations import Grouping
from samo.perturbations._perturbation import Perturbation
from samo.tensors._dtensor import in_parts

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def ranks_of(model: nn.Module, tasks: Sequence[str], group: ProcessGroup | None) -> Ranks:
    """The ranks of a process group: of the default one if none is given and it is initialised.

    Args:
        model: The model.
        tasks: The names of the tasks.
        group: The process group.

    Returns:
        The ranks.

    Raises:
        TypeError: If ``process_group`` is not a process group.
        ValueError: If this process is not in it.
    """
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    if group is None:
        return Alone()
    if not isinstance(group, ProcessGroup):
        raise TypeError(
            f"process_group must be a torch.distributed.ProcessGroup or None; found {group!r}."
        )
    if dist.get_rank(group) < 0:
        raise ValueError("This process is not in process_group: only its members take its steps.")
    if dist.get_world_size(group) == 1:
        return Alone()
    from samo.distributed._process_group import Together

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return Together(group, device, tasks)


def placement_of(
    model: nn.Module,
    ranks: Ranks,
    combiner: Combiner,
    perturbation: Perturbation | None,
    *,
    sync_perturbation: bool,
) -> Placement:
    """Where a model's parameters are.

    Args:
        model: The model.
        ranks: The ranks.
        combiner: The method, which may need more than a sharded model can give it.
        perturbation: How to perturb.
        sync_perturbation: Whether all ranks perturb along one gradient.

    Returns:
        The placement.

    Raises:
        ValueError: If the model is in shards, and the options need it whole; if the estimator needs
            all ranks together.
    """
    units = any(hasattr(module, "reshard") for module in model.modules())
    estimator = None if perturbation is None else perturbation.estimator
    if not sync_perturbation and isinstance(estimator, Grouping):
        raise ValueError(
            f"local={estimator!r} needs sync_perturbation=True: its groups are those of all ranks."
        )
    if not units and not any(map(in_parts, model.parameters())):
        return Replicated(model, ranks)
    if not sync_perturbation:
        raise ValueError(
            "sync_perturbation=False needs the whole model on every rank: in a sharded one "
            "(fully_shard) there is only one perturbation for all ranks."
        )
    if isinstance(combiner, WholeMatrix):
        raise ValueError(
            f"aggregator={combiner.method!r} needs whole task gradients, which no rank holds of a "
            f"sharded model (fully_shard): choose a method of the losses or of the Gramian (see "
            f"samo.aggregation.available())."
        )
    from samo.distributed._sharded import Sharded

    return Sharded(model, ranks)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of a ``DistributedDataParallel``, whose parameters have no prefix."""
    module: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return module


def check_ranks(
    ranks: Ranks, model: nn.Module, streams: Streams, configuration: dict[str, str]
) -> None:
    """Makes sure that all ranks have the same engine and the same model.

    Args:
        ranks: The ranks.
        model: The model.
        streams: The engine's generators.
        configuration: The engine's options.

    Raises:
        ValueError: If they do not, naming what differs and its values.
    """
    named = dict(model.named_parameters())
    shapes = {f"{name}: {list(p.shape)}" for name, p in named.items()}
    ranks.check({**configuration, **streams.facts(), "parameters": ", ".join(sorted(shapes))})
    whole = {name: p.detach() for name, p in named.items() if not in_parts(p)}
    ranks.check(
        {
            f"the values of parameter {name!r}": f"checksum {p.view(kind).sum(dtype=torch.int64)}"
            for name, p in whole.items()
            if (kind := _INTEGERS.get(p.element_size()))
        }
    )
