"""Steps of an engine that are taken for their task gradients, and change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn

from samo import aggregation
from samo.engine import Declared, Guard, Partition, Step, confine_autocast, make_setting
from samo.perturbations import Perturbation

from ._data import Data
from ._errors import AnalysisError
from ._hessian import learn
from ._undisturbed import Alone


def steps(
    model: nn.Module,
    data: Data,
    alone: Alone,
    aggregator: Literal["upgrad", "ls"],
    perturbation: Perturbation | None,
    *,
    decompose: bool = False,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
) -> Iterator[tuple[Step, dict[str, float]]]:
    """Gathers the task gradients of each batch, as `samo.Engine.backward` does.

    Args:
        model: The model.
        data: The batches.
        alone: Evaluates the model.
        aggregator: What is kept: ``"upgrad"`` for each task's gradient, ``"ls"`` for their sum.
        perturbation: How to perturb; None for natural gradients.
        decompose: Whether natural and flat gradients are made, of which the flat ones are kept.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that are one task's own, by task.
        seed: The seed of the engine's random numbers.

    Yields:
        The step of each batch, gathered, and the batch's shares of the tasks' examples.

    Raises:
        AnalysisError: If each task's gradient is asked for, and no parameter is shared.
    """
    setting = make_setting(
        model,
        data.tasks,
        aggregation.create(aggregator, len(data.tasks)),
        perturbation,
        decompose=decompose,
        partition=Partition(model, data.tasks, shared, own),
        seed=seed,
    )
    learn(setting.partition, data, alone)
    if aggregator != "ls" and not setting.partition.shared:
        raise AnalysisError(
            f"Tasks {list(data.tasks)} share no parameter. Of one task, all are its own: declare "
            f"them shared (shared=model)."
        )
    device_types = {"cpu", *(parameter.device.type for parameter in model.parameters())}
    for part in data:
        with confine_autocast([part.closure], device_types) as closures:
            step = Step(setting, closures, Guard())
            alone(step.gather)
        yield step, part.shares
