"""Steps of an engine without an update, for their task gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Literal

from torch import nn

from samo import aggregation
from samo.engine import Declared, Guard, Partition, Setting, Step, confined, make_setting
from samo.perturbations import Displacement

from ._data import Data
from ._errors import AnalysisError
from ._hessian import learn_partition
from ._undisturbed import Isolated


def steps(
    model: nn.Module,
    data: Data,
    isolated: Isolated,
    aggregator: Literal["upgrad", "ls"],
    perturbation: Displacement | None,
    *,
    decompose: bool = False,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
) -> Iterator[tuple[Step, dict[str, float]]]:
    """Computes the task gradients of each batch, as `samo.Engine.backward` does.

    The aggregator ``"upgrad"`` keeps each task's gradient, ``"ls"`` their sum. With `decompose`,
    natural and flat gradients are computed, and the flat ones kept.

    Yields:
        The step of each batch, and the batch's shares of the tasks' examples.

    Raises:
        AnalysisError: If each task's gradient is requested, and no parameter is shared; or if the
            perturbation is not along gradients.
    """
    if perturbation is not None and perturbation.ascending is None:
        raise AnalysisError(
            f"perturbation must be a samo.Perturbation or None; found {perturbation!r}, which "
            f"follows the past gradients of an engine."
        )
    setting = make_setting(
        model,
        data.tasks,
        aggregation.create(aggregator, len(data.tasks)),
        perturbation,
        decompose=decompose,
        partition=Partition(model, data.tasks, shared, own),
        seed=seed,
    )
    learn_partition(setting.partition, data, isolated)
    if aggregator != "ls" and not setting.partition.shared:
        raise AnalysisError(
            f"Tasks {list(data.tasks)} share no parameter. All parameters of a single task are "
            f"task-specific: declare them shared (shared=model)."
        )
    for part in data:
        closures, without_autocast = confined([part.closure], setting.journal)
        step = Step(setting, closures, Guard())
        gather = partial(_gather, setting, step, without_autocast)
        setting.journal.run(partial(isolated, gather))
        yield step, part.shares


def _gather(setting: Setting, step: Step, without_autocast: AbstractContextManager[None]) -> None:
    step.begin()
    placement = setting.world.placement
    silent = setting.journal.during(placement.begin, placement.end)
    with without_autocast, silent, ExitStack() as traces:
        step.gather(traces)
