"""The setting of an engine: its checked options and the objects that all its steps use."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import nn
from torch.distributed import ProcessGroup

from samo.aggregation import Combiner, TorchJDObject, combiner
from samo.distributed import World, unwrapped, world_of
from samo.model import Journal, Streams, Traced
from samo.perturbations import Displacement, Perturbation, RunningMean
from samo.tensors import Workspace

from ._partition import Partition

Level = Literal["parameter", "representation"]
"""Where task gradients are compared."""


@dataclass(frozen=True)
class Setting:
    """The checked options of an engine, and the objects that all its steps use.

    Attributes:
        tasks: The names of the tasks.
        perturbation: The perturbation; None for plain multi-task learning.
        ascending: The perturbation if losses are evaluated a second time, else None.
        mean: The running mean of past gradients, if the perturbation is along it.
        combiner: Combines the task gradients.
        decompose: Whether loss gradients and flat gradients are aggregated separately.
        flat_combiner: Combines the flat gradients, if these are aggregated separately.
        partition: The shared and own parameters.
        world: The processes.
        traced: The model, with facts about its natural passes.
        workspace: Storage that is reused from step to step.
        level: Where task gradients are compared.
        journal: What the step in progress has changed.
        rounded: The radii for which it is known whether rounding takes a part of ε away.
    """

    tasks: tuple[str, ...]
    perturbation: Displacement | None
    ascending: Perturbation | None
    mean: RunningMean | None
    combiner: Combiner
    decompose: bool
    flat_combiner: Combiner | None
    partition: Partition
    world: World
    traced: Traced
    workspace: Workspace
    level: Level
    journal: Journal
    rounded: set[float] = field(default_factory=set)

    def check(self) -> None:
        """Raises ValueError if the options conflict with each other or with the processes."""
        check_world(self.world, self.combiner, self.ascending)
        check_level(self.level, self.combiner, self.ascending, self.world, decompose=self.decompose)
        check_sharpness(self.combiner, self.perturbation)

    def check_microbatches(self, count: int) -> None:
        """Raises ValueError if several micro-batches cannot be compared at the representation."""
        if not self.combiner.weighs_first:
            raise ValueError(
                f"losses must be one function for level='representation'; found {count}. "
                f"The representations of micro-batches cannot be compared without keeping all "
                f"graphs: use one batch, or level='parameter'."
            )

    def with_rho(self, rho: float) -> Setting:
        """Returns the setting with another radius ρ; raises ValueError if that is invalid."""
        if self.perturbation is None:
            raise ValueError(
                f"rho cannot be set to {rho!r}: this engine has no perturbation. Create it with "
                f"one, for instance samo.GSAM(.., rho=0.0), which is plain training until rho is "
                f"set."
            )
        perturbation = replace(self.perturbation, rho=rho)
        setting = replace(self, perturbation=perturbation, ascending=perturbation.ascending)
        setting.check()
        return setting


def make_setting(
    model: nn.Module,
    tasks: tuple[str, ...],
    aggregator: TorchJDObject,
    perturbation: Displacement | None,
    *,
    partition: Partition,
    decompose: bool = False,
    seed: int = 0,
    process_group: ProcessGroup | None = None,
    sync_perturbation: bool = True,
    gradient_dtype: torch.dtype | None = None,
    level: Level = "parameter",
    guards: Sequence[nn.Module] = (),
) -> Setting:
    """Checks the other options of an engine (see `Engine`), and creates its setting.

    Returns:
        The setting.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has an invalid value, or conflicts with another.
    """
    if perturbation is not None and not isinstance(perturbation, Displacement):
        raise TypeError(
            f"perturbation must be a samo.Perturbation, a samo.Momentum or None; "
            f"found {type(perturbation).__name__}."
        )
    ascending = None if perturbation is None else perturbation.ascending
    if decompose and ascending is None:
        raise ValueError(
            f"decompose=True needs a samo.Perturbation: flat gradients are the difference of those "
            f"at two points. Found perturbation={perturbation!r}."
        )
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer; found {seed!r}.")
    if gradient_dtype is not None and not (
        isinstance(gradient_dtype, torch.dtype) and gradient_dtype.is_floating_point
    ):
        raise ValueError(
            f"gradient_dtype must be a floating-point torch.dtype or None; "
            f"found {gradient_dtype!r}."
        )
    if ascending is not None and ascending.local is not None and ascending.local.stateful:
        perturbation = ascending = replace(ascending, local=copy.deepcopy(ascending.local))
    combining = combiner(aggregator, len(tasks))
    flat: Combiner | None = None
    if decompose and not combining.weighs_first:
        # Both share the parameters that the optimizer trains.
        learnt = {id(p): p for p in aggregator.parameters()}
        flat = combiner(copy.deepcopy(aggregator, learnt), len(tasks))
    streams, journal = Streams(int(seed)), Journal()
    world = world_of(model, tasks, process_group, streams, sync_perturbation=sync_perturbation)
    setting = Setting(
        tasks=tasks,
        perturbation=perturbation,
        ascending=ascending,
        mean=None if perturbation is None else perturbation.memory(),
        combiner=combining,
        decompose=decompose,
        flat_combiner=flat,
        partition=partition,
        world=world,
        traced=Traced(unwrapped(model), guards, journal=journal),
        workspace=Workspace(world.placement.global_sum, gradient_dtype),
        level=level,
        journal=journal,
    )
    setting.check()
    return setting


def check_model(model: object) -> None:
    """Raises a TypeError for anything but a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; found {type(model).__name__}.")


def checked_guards(guards: Iterable[nn.Module]) -> tuple[nn.Module, ...]:
    """Returns the modules; raises TypeError for anything else."""
    found = tuple(guards) if isinstance(guards, Iterable) else (guards,)
    if isinstance(guards, nn.Module) or not all(isinstance(g, nn.Module) for g in found):
        raise TypeError(
            f"guards must be a list of modules outside of the model, such as guards=[teacher]; "
            f"found {type(guards).__name__} of {[type(guard).__name__ for guard in found]}."
        )
    return tuple(unwrapped(guard) for guard in found)


def checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the tasks; raises ValueError if they are not distinct names."""
    names = tuple(tasks) if isinstance(tasks, Iterable) else ()
    if isinstance(tasks, str) or not names or not all(isinstance(t, str) and t for t in names):
        raise ValueError(
            f"tasks must be a list of at least one task name, a string that is not empty; found "
            f"{tasks!r}."
        )
    if repeated := sorted({task for task in names if names.count(task) > 1}):
        raise ValueError(f"tasks must be distinct; repeated: {repeated}.")
    return names


def check_world(world: World, combining: Combiner, perturbation: Perturbation | None) -> None:
    """Raises ValueError if the method or the perturbation does not support these processes."""
    estimator = None if perturbation is None else perturbation.estimator
    if not world.sync_perturbation and estimator is not None and estimator.groups_tasks:
        raise ValueError(
            f"local={estimator!r} needs sync_perturbation=True: all ranks use the same groups."
        )
    if world.placement.whole:
        return
    if not world.sync_perturbation:
        raise ValueError(
            "sync_perturbation=False needs the whole model on every rank: a sharded model "
            "(fully_shard) has a single perturbation for all ranks."
        )
    if combining.whole_rows:
        raise ValueError(
            f"aggregator={combining.method!r} needs whole task gradients, which no rank of a "
            f"sharded model (fully_shard) has: choose a method of the losses or of the Gramian "
            f"(see samo.aggregation.available())."
        )


def check_level(
    level: Level,
    combining: Combiner,
    perturbation: Perturbation | None,
    world: World,
    *,
    decompose: bool,
) -> None:
    """Raises ValueError if task gradients cannot be compared at the level."""
    if level not in get_args(Level):
        raise ValueError(f"level must be one of {list(get_args(Level))}; found {level!r}.")
    if level == "parameter":
        return
    start = "level='representation' compares task gradients of one forward pass"
    estimator = None if perturbation is None else perturbation.estimator
    if estimator is not None:
        raise ValueError(
            f"{start}, but local={estimator!r} evaluates the tasks at points of their own: use "
            f"alpha=1 (samo.GSAM), rho=0 (heads only, or no perturbation), samo.MSAM, or "
            f"level='parameter'."
        )
    if decompose:
        raise ValueError(
            f"{start}, but decompose=True needs those of two passes: use level='parameter'."
        )
    if combining.whole_rows and (combining.sized or world.ranks.size > 1):
        raise ValueError(
            f"{start}, whose coordinates are those of the batch, but "
            f"aggregator={combining.method!r} relates them to other batches or needs those of all "
            f"ranks: use a method of the Gramian, or level='parameter'."
        )


def check_sharpness(combining: Combiner, perturbation: Displacement | None) -> None:
    """Raises ValueError if the method needs rises of the losses that the perturbation lacks."""
    ascending = None if perturbation is None else perturbation.ascending
    shared_only = ascending is not None and not (ascending.estimator or ascending.own_radius)
    if combining.sees_sharpness and not shared_only:
        raise ValueError(
            f"aggregator={combining.method!r} learns from the rise of the losses along one ε of "
            f"the shared parameters: use samo.GSAM(.., rho_own=0), that is, a samo.Perturbation "
            f"with alpha=1 and rho_own=0. Found perturbation={perturbation!r}."
        )


def configuration(setting: Setting, aggregator: nn.Module) -> Mapping[str, str]:
    """Returns the options that must agree between ranks, and with a state to be loaded."""
    return {
        "tasks": repr(list(setting.tasks)),
        "aggregator": stable_repr(aggregator),
        "perturbation": stable_repr(setting.perturbation),
        "decompose": repr(setting.decompose),
        "level": repr(setting.level),
    }


def stable_repr(value: object) -> str:
    """Returns the ``repr`` without memory addresses, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
