"""The processes of an engine: its ranks, the placement of its model, its random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from samo.model import Streams
from samo.tensors import in_parts

from ._alone import Alone, Replicated
from ._placement import Placement
from ._ranks import Ranks

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class World:
    """The processes that take a step together.

    Attributes:
        ranks: The ranks.
        placement: The placement of the parameters.
        streams: The engine's random number generators.
        sync_perturbation: Whether all ranks perturb along the gradient of the whole batch.
    """

    ranks: Ranks
    placement: Placement
    streams: Streams
    sync_perturbation: bool = True

    def alone(self, model: nn.Module) -> World:
        """Returns a world of this process alone, with its own random numbers (m-sharpness)."""
        ranks = Alone()
        streams = self.streams.apart(self.ranks.rank)
        return World(ranks, Replicated(model, ranks), streams)


def world_of(
    model: nn.Module,
    tasks: Sequence[str],
    group: ProcessGroup | None,
    streams: Streams,
    *,
    sync_perturbation: bool,
) -> World:
    """Returns the processes of a group, by default of the default group.

    Args:
        model: The model.
        tasks: The names of the tasks.
        group: The process group. None stands for the default group if it is initialised, else for
            this process alone.
        streams: The engine's random number generators.
        sync_perturbation: Whether all ranks perturb along the gradient of the whole batch.

    Returns:
        The processes.

    Raises:
        TypeError: If ``process_group`` is not a process group.
        ValueError: If this process is not in it, or the model is sharded or wrapped in a way that
            the engine cannot use.
    """
    _check_wrappers(model)
    ranks = _ranks_of(model, tasks, group)
    sharded = any(hasattr(module, "reshard") for module in model.modules())
    placement: Placement
    if sharded or any(map(in_parts, model.parameters())):
        from ._sharded import Sharded

        placement = Sharded(model, ranks)
    else:
        placement = Replicated(model, ranks)
    return World(ranks, placement, streams, sync_perturbation)


def _check_wrappers(model: nn.Module) -> None:
    """Raises ValueError for wrappers whose parameters or forward passes the engine cannot use."""
    for name, module in model.named_modules():
        where = f"{name!r} in the model" if name else "The model"
        if hasattr(type(module), "summon_full_params"):
            raise ValueError(
                f"{where} is a FullyShardedDataParallel (FSDP1), whose flat parameters cannot be "
                f"perturbed: use torch.distributed.fsdp.fully_shard (FSDP2) on the module instead."
            )
        if isinstance(module, DataParallel) and len(module.device_ids) > 1:
            raise ValueError(
                f"{where} is a DataParallel over the devices {module.device_ids}, which evaluates "
                f"copies of the model in threads: use DistributedDataParallel, with one process "
                f"for each device."
            )


def _ranks_of(model: nn.Module, tasks: Sequence[str], group: ProcessGroup | None) -> Ranks:
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
    from ._together import Together

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return Together(group, device, tasks)


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the model inside a ``DistributedDataParallel``: its names have no prefix."""
    module: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return module


def check_ranks(world: World, model: nn.Module, configuration: Mapping[str, str]) -> None:
    """Checks before the first step that all ranks start from the same engine and the same model.

    Args:
        world: The processes.
        model: The model.
        configuration: The options of the engine.

    Raises:
        ValueError: If they differ, with the differences; or if a parameter or buffer of the model
            is uninitialised.
    """
    named = dict(model.named_parameters())
    if lazy := [n for n, t in chain(named.items(), model.named_buffers()) if is_lazy(t)]:
        raise ValueError(
            f"{lazy[0]!r} is uninitialised, as lazy modules (torch.nn.LazyLinear, ..) leave it: "
            f"run one forward pass of the model before the first step, on every rank with the same "
            f"random seed."
        )
    if world.ranks.size == 1:
        return
    facts = {**configuration, **world.streams.facts(), **world.placement.facts()}
    for number, (name, parameter) in enumerate(named.items()):
        facts[f"parameter {name!r}"] = (
            f"number {number}, {list(parameter.shape)}, {parameter.dtype}, "
            f"requires_grad={parameter.requires_grad}"
        )
        kind = _INTEGERS.get(parameter.element_size())
        if kind is not None and not in_parts(parameter):
            total = parameter.detach().view(kind).sum(dtype=torch.int64)
            facts[f"the values of parameter {name!r}"] = f"checksum {total}"
    world.ranks.check(facts)
