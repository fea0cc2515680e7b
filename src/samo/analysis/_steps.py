"""Steps of an engine without an update, for their task gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn

from samo.engine._engine import Engine
from samo.engine._partition import Declared
from samo.engine._rows import Scale
from samo.engine._step import Step
from samo.model._modes import confined
from samo.perturbations._perturbation import Perturbation

from ._data import Data
from ._errors import AnalysisError
from ._hessian import learn_partition
from ._undisturbed import Isolated


def steps(
    model: nn.Module,
    data: Data,
    isolated: Isolated,
    aggregator: Literal["upgrad", "ls"],
    perturbation: Perturbation | None,
    *,
    decompose: bool = False,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
) -> Iterator[tuple[Step, dict[str, float]]]:
    """Computes the task gradients of each batch, as `samo.Engine.backward` does.

    Args:
        model: The model.
        data: The batches.
        isolated: Evaluates the model.
        aggregator: ``"upgrad"`` keeps each task's gradient, ``"ls"`` their sum.
        perturbation: The perturbation; None for natural gradients.
        decompose: Whether to compute natural and flat gradients, and keep the flat ones.
        shared: Shared parameters or modules.
        own: Task-specific parameters or modules by task.
        seed: The seed of the engine's random numbers.

    Yields:
        The step of each batch, and the batch's shares of the tasks' examples.

    Raises:
        AnalysisError: If each task's gradient is requested, and no parameter is shared.
    """
    engine = Engine(
        model,
        data.tasks,
        aggregator=aggregator,
        perturbation=perturbation,
        decompose=decompose,
        shared=shared,
        own=own,
        seed=seed,
    )
    setting = engine._setting
    learn_partition(setting.partition, data, isolated)
    if aggregator != "ls" and not setting.partition.shared:
        raise AnalysisError(
            f"Tasks {list(data.tasks)} share no parameter. All parameters of a single task are "
            f"task-specific: declare them shared (shared=model)."
        )
    device_types = {"cpu", *(parameter.device.type for parameter in model.parameters())}
    for part in data:
        with confined([part.closure], device_types) as closures:
            step = Step(setting, closures, Scale(None))
            isolated(step.gather)
        yield step, part.shares
