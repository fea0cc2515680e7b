"""The measured steps: plain backprop, every preset and estimator, and steps of TorchJD."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchjd import autogram
from torchjd.aggregation import Aggregator, GramianWeightedAggregator
from torchjd.autojac import jac_to_grad, mtl_backward

from samo.engine import Engine, Level, Losses
from samo.perturbations import ESTIMATORS, SPSA, LocalGradient

from .. import aggregation
from .._names import unknown
from .._presets import ERM, FMTL, GSAM, LSAM, MSAM, SAMO
from ..training import LEVELS, RunError
from ._cases import Workload

Run = Callable[[Losses], object]
"""A step, which takes the closure."""
PLAIN = "plain"
"""The name of the step that is the unit of all others."""
_COMPARING = ("gramian", "gradients")


@dataclass(frozen=True)
class Subject:
    """A step to measure.

    Attributes:
        preset: The name by which it is chosen.
        title: A description in one line.
        create: Creates the step for a workload and a method, with a new engine or aggregator.
        level: Where it compares task gradients; None if it compares none.
        needs: The inputs that its methods need (see `Method.needs`); empty for all.
        recorded: Whether its passes can be recorded: an engine's can.
    """

    preset: str
    title: str
    create: Callable[[Workload, str], Run]
    level: Level | None = None
    needs: tuple[str, ...] = ()
    recorded: bool = True


def _plain(workload: Workload, _method: str) -> Run:
    """Creates a step that minimises the sum of the losses."""

    def run(losses: Losses) -> None:
        torch.stack(list(losses(workload.tasks).values())).sum().backward()

    return run


def _mtl(chunk: int | None, workload: Workload, method: str) -> Run:
    """Creates a step as in TorchJD's documentation; ``chunk`` losses at a time, None for all."""
    aggregator = aggregation.create(method, len(workload.tasks))
    assert isinstance(aggregator, Aggregator)
    trunk = workload.outside("heads")
    heads = {task: head for task, (head, *_) in workload.own.items()}

    def run(losses: Losses) -> None:
        with _inputs(heads.values()) as features:
            values = losses(workload.tasks)
        mtl_backward(
            list(values.values()),
            features=list(features.values()),
            tasks_params=[heads[task].parameters() for task in values],
            shared_params=trunk,
            parallel_chunk_size=chunk,
            retain_graph=False,
        )
        jac_to_grad(trunk, aggregator)

    return run


@contextmanager
def _inputs(modules: Iterable[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Collects the inputs of modules."""
    found: dict[int, Tensor] = {}

    def enter(_module: object, inputs: tuple[Tensor, ...]) -> None:
        found[id(inputs[0])] = inputs[0]

    with ExitStack() as stack:
        for module in modules:
            handle: RemovableHandle = module.register_forward_pre_hook(enter)
            stack.callback(handle.remove)
        yield found


def _autogram(workload: Workload, method: str) -> Run:
    """Creates a step of TorchJD that computes the Gramian without storing the Jacobian."""
    aggregator = aggregation.create(method, len(workload.tasks))
    assert isinstance(aggregator, GramianWeightedAggregator)
    trunk = [child for name, child in workload.model.named_children() if name != "heads"]
    # It removes its hooks from the model when it is freed.
    engine = autogram.Engine(*trunk, batch_dim=None)

    def run(losses: Losses) -> None:
        values = torch.stack(list(losses(workload.tasks).values()))
        values.backward(aggregator.gramian_weighting(engine.compute_gramian(values)))

    return run


def _engine(preset: Callable[..., Engine], workload: Workload, method: str) -> Run:
    """Creates a step of this package, with the partition declared."""
    tasks, own = workload.tasks, workload.own
    engine = preset(workload.model, tasks, aggregator=method, shared=workload.shared, own=own)
    return engine.backward


def _estimating(local: Callable[[], LocalGradient], *arguments: Any, **options: Any) -> Engine:
    """Creates an engine of SAMO with a new estimator, since some have state."""
    return SAMO(*arguments, local=local(), **options)


def _estimators() -> Iterator[tuple[str, str, Callable[..., Engine]]]:
    """Yields name, title and preset of each estimator of the package."""
    one_sided = partial(SPSA, antithetic=False)
    yield "samo-one-sided", "SAMO: SPSA, at one side of θ only", partial(_estimating, one_sided)
    signs = partial(SPSA, noise="rademacher")
    yield "samo-rademacher", "SAMO: SPSA along signs", partial(_estimating, signs)
    for kind in ESTIMATORS:
        if kind is not SPSA:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
            yield f"samo-{words}", f"SAMO: {kind.__name__}", partial(_estimating, kind)


# Presets that evaluate all tasks at one point can compare them at the representation.
_AT_ONE_POINT: tuple[tuple[str, str, Callable[..., Engine]], ...] = (
    ("erm", "ERM", ERM),
    ("msam", "MSAM", MSAM),
    ("heads", "GSAM of the heads only", partial(GSAM, rho=0.0, rho_own=0.05)),
    ("gsam", "GSAM", GSAM),
)
_AT_SEVERAL_POINTS: tuple[tuple[str, str, Callable[..., Engine]], ...] = (
    ("lsam", "LSAM", LSAM),
    ("fmtl", "FMTL", FMTL),
    ("samo", "SAMO: SPSA", SAMO),
)
_TORCHJD: tuple[tuple[str, str, Callable[[Workload, str], Run], tuple[str, ...]], ...] = (
    ("torchjd", "TorchJD: mtl_backward, all tasks at once", partial(_mtl, None), _COMPARING),
    ("torchjd-serial", "TorchJD: mtl_backward, a task at a time", partial(_mtl, 1), _COMPARING),
    ("torchjd-autogram", "TorchJD: autogram.Engine", _autogram, ("gramian",)),
)


def _subjects() -> Iterator[tuple[str, Subject]]:
    yield PLAIN, Subject(PLAIN, "sum(losses).backward()", _plain, recorded=False)
    for name, title, create, needs in _TORCHJD:
        yield name, Subject(name, title, create, "parameter", needs, recorded=False)
    for name, title, preset in _AT_ONE_POINT:
        yield name, Subject(name, title, partial(_engine, preset), "parameter")
        title = f"{title}, tasks compared at the representation"
        create = partial(_engine, partial(preset, level="representation"))
        yield f"{name}-representation", Subject(name, title, create, "representation", _COMPARING)
    for name, title, preset in (*_AT_SEVERAL_POINTS, *_estimators()):
        yield name, Subject(name, title, partial(_engine, preset), "parameter")


SUBJECTS: Mapping[str, Subject] = MappingProxyType(dict(_subjects()))
PRESETS = tuple(dict.fromkeys(subject.preset for subject in SUBJECTS.values()))
"""The names by which steps are chosen."""


def chosen(
    presets: Sequence[str], method: str, levels: Sequence[str] = LEVELS
) -> dict[str, Subject]:
    """Returns the steps of some presets, and plain backprop, their unit.

    Args:
        presets: The names of the presets; if empty, all but the estimators of SAMO other than SPSA.
        method: The aggregation method. Steps that it cannot have are left out: TorchJD's if it
            needs the losses in addition to the gradients, and those at the representation if it
            compares no gradients.
        levels: Where task gradients are compared.

    Returns:
        The steps by name.

    Raises:
        RunError: If a name is unknown.
    """
    for name in presets:
        if name not in PRESETS:
            raise RunError(unknown("preset", name, PRESETS))
    for level in levels:
        if level not in LEVELS:
            raise RunError(unknown("level", level, LEVELS))
    try:
        described = aggregation.describe(method)
    except ValueError as error:
        raise RunError(str(error)) from error
    extra = {name for name, _, _ in _estimators()}
    return {
        name: subject
        for name, subject in SUBJECTS.items()
        if name == PLAIN
        or (
            (subject.preset in presets if presets else subject.preset not in extra)
            and subject.level in levels
            and (not subject.needs or described.needs in subject.needs)
            and (subject.recorded or not described.sees_losses)
        )
    }
