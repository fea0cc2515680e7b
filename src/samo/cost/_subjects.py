"""The measured steps: every preset, every estimator, and steps of TorchJD."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torchjd.aggregation import Aggregator
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.scalarization import Scalarizer

from samo.engine import Engine, Losses, Step
from samo.perturbations import ESTIMATORS, SPSA, LocalGradient

from .. import aggregation
from .._names import unknown
from .._presets import ERM, FMTL, GSAM, LSAM, SAMO
from ..training import RunError
from ._cases import Workload
from ._meter import Meter

Marks = list[Any]
"""Marks of the start and the end of the aggregation."""
Run = Callable[[Losses, Meter], Marks]
"""A step, which returns the marks of its aggregation."""


@dataclass(frozen=True)
class Subject:
    """A step to measure.

    Attributes:
        title: A description in one line.
        engine: Creates the engine for a workload and a method.
        torchjd: If TorchJD runs the step, the number of losses that it differentiates at once (0
            for all); the bare arithmetic is still the engine's.
    """

    title: str
    engine: Callable[[Workload, str], Engine]
    torchjd: int | None = None

    def run(self, workload: Workload, method: str) -> Run:
        """Creates the step for a workload and a method, with a new engine or aggregator."""
        if self.torchjd is not None:
            return _torchjd_run(workload, method, self.torchjd or None)
        engine = self.engine(workload, method)

        def run(losses: Losses, meter: Meter) -> Marks:
            with _aggregating(meter) as marks:
                engine.backward(losses)
            return marks

        return run


def _preset(
    preset: Callable[..., Engine], workload: Workload, method: str, **options: Any
) -> Engine:
    # Some estimators have state, so each engine gets a new one.
    made = {name: value() if callable(value) else value for name, value in options.items()}
    return preset(workload.model, workload.tasks, aggregator=method, own=workload.heads, **made)


def _estimators() -> Iterator[tuple[str, str, Callable[[], LocalGradient]]]:
    """Yields name, title and factory of each estimator of the package."""
    yield "samo", "SAMO: SPSA", SPSA
    one_sided = partial(SPSA, antithetic=False)
    yield "samo-one-sided", "SAMO: SPSA, at one side of θ only", one_sided
    yield "samo-rademacher", "SAMO: SPSA along signs", partial(SPSA, noise="rademacher")
    for kind in ESTIMATORS:
        if kind is not SPSA:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()
            yield f"samo-{words}", f"SAMO: {kind.__name__}", kind


SUBJECTS: Mapping[str, Subject] = {
    "torchjd": Subject("ERM by TorchJD, one task after the other", partial(_preset, ERM), 1),
    "torchjd-batched": Subject("ERM by TorchJD, all tasks at once", partial(_preset, ERM), 0),
    "erm": Subject("ERM", partial(_preset, ERM)),
    "gsam": Subject("GSAM", partial(_preset, GSAM)),
    "lsam": Subject("LSAM", partial(_preset, LSAM)),
    "fmtl": Subject("FMTL", partial(_preset, FMTL)),
    **{
        name: Subject(title, partial(_preset, SAMO, local=local))
        for name, title, local in _estimators()
    },
}


def chosen(names: Sequence[str], method: str) -> dict[str, Subject]:
    """Returns the steps with these names.

    Args:
        names: The names; empty for all.
        method: The aggregation method. TorchJD's steps are left out if it needs the losses in
            addition to the gradients.

    Returns:
        The steps by name.

    Raises:
        RunError: If a name is unknown.
    """
    for name in names:
        if name not in SUBJECTS:
            raise RunError(unknown("preset", name, SUBJECTS))
    try:
        described = aggregation.describe(method)
    except ValueError as error:
        raise RunError(str(error)) from error
    found = {name: SUBJECTS[name] for name in SUBJECTS if name in names or not names}
    if described.sees_losses:
        return {name: s for name, s in found.items() if s.torchjd is None}
    if issubclass(described.kind, Scalarizer):  # there is no Jacobian to batch
        return {name: s for name, s in found.items() if s.torchjd != 0}
    return found


def _torchjd_run(workload: Workload, method: str, chunk: int | None) -> Run:
    """Creates a plain multi-task step as in TorchJD's documentation."""
    method_object = aggregation.create(method, len(workload.tasks))
    shared, heads = workload.shared, workload.heads

    def by_jacobian(losses: Losses, meter: Meter) -> Marks:
        assert isinstance(method_object, Aggregator)
        with _features(workload) as features:
            values = losses(workload.tasks)
        mtl_backward(
            list(values.values()),
            features=list(features.values()),
            tasks_params=[heads[task].parameters() for task in values],
            shared_params=shared,
            parallel_chunk_size=chunk,
            retain_graph=False,
        )
        start = meter.mark()
        jac_to_grad(shared, method_object)
        return [start, meter.mark()]

    def by_sum(losses: Losses, meter: Meter) -> Marks:
        assert isinstance(method_object, Scalarizer)
        values = torch.stack(list(losses(workload.tasks).values()))
        start = meter.mark()
        total = method_object(values)
        end = meter.mark()
        total.backward()
        return [start, end]

    return by_sum if isinstance(method_object, Scalarizer) else by_jacobian


@contextmanager
def _features(workload: Workload) -> Iterator[dict[int, Tensor]]:
    """Collects the inputs of the heads, where TorchJD splits the graph."""
    found: dict[int, Tensor] = {}

    def enter(_module: object, inputs: tuple[Tensor, ...]) -> None:
        found[id(inputs[0])] = inputs[0]

    with ExitStack() as stack:
        for head in workload.heads.values():
            handle: RemovableHandle = head.register_forward_pre_hook(enter)
            stack.callback(handle.remove)
        yield found


@contextmanager
def _aggregating(meter: Meter) -> Iterator[Marks]:
    """Marks the start and the end of the aggregation in an engine's step."""
    marks: Marks = []
    stage = Step.aggregate

    def marked(step: Step) -> None:
        marks.append(meter.mark())
        stage(step)
        marks.append(meter.mark())

    setattr(Step, "aggregate", marked)  # noqa: B010 - during one step
    try:
        yield marks
    finally:
        setattr(Step, "aggregate", stage)  # noqa: B010
