"""The quality of estimators of the local gradient."""

from __future__ import annotations

import copy
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from samo.engine import Declared
from samo.perturbations import LocalGradient, Perturbation, Probe
from samo.tensors import Vector, ratio

from ._data import Data, Losses, Sizes
from ._errors import AnalysisError
from ._results import Result
from ._steps import steps
from ._undisturbed import undisturbed


@dataclass(frozen=True)
class Agreement:
    """Cosines with the exact local gradient, over the batches.

    Attributes:
        mean: The mean over the batches, by task.
        std: The standard deviation over the batches (0 for one batch), by task.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class EstimatorQuality(Result):
    """Cosines of ascent directions with the exact local gradients.

    Attributes:
        tasks: The tasks.
        alpha: The weight α of the mean gradient in ε_i.
        parameters: The number of shared parameters d; a random direction has a cosine of the
            order of 1/√d.
        mean_gradient: The cosine of the mean gradient g_0 with ∇l_i: the value for α = 1.
        direction: The cosine of the estimate ĝ_i with ∇l_i, by estimator.
        epsilon: The cosine of ε_i ∝ α g_0 + (1 − α) ĝ_i with ∇l_i, by estimator.
        batches: The number of batches.
    """

    kind: ClassVar[str] = "estimators"

    tasks: tuple[str, ...]
    alpha: float
    parameters: int
    mean_gradient: Agreement
    direction: dict[str, Agreement]
    epsilon: dict[str, Agreement]
    batches: int


def estimator_quality(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    estimators: Mapping[str, LocalGradient],
    *,
    alpha: float = 0.5,
    rho: float = 0.05,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
    sizes: Sizes | None = None,
) -> EstimatorQuality:
    r"""Computes the cosines of estimates, and of the resulting ε, with the exact gradient.

    .. math::
        \cos(\hat g_i, \nabla_\theta l_i) \quad \text{and} \quad
        \cos(\alpha g_0 + (1 - \alpha) \hat g_i, \nabla_\theta l_i)

    Each batch is a step of `samo.Engine` without an update, the model in evaluation mode (see
    `hessian_spectrum`). All estimators are evaluated at the same points. A stateful
    estimator (`samo.PreviousGradient`) receives the gradients of the previous batch, at the same
    parameters.

    Args:
        model: The model, which is unchanged afterwards.
        losses: Maps a batch and task names to the losses, means over the batch.
        batches: The batches, a re-iterable.
        tasks: The names of the tasks.
        estimators: The estimators by their names in the result.
        alpha: The weight α of the mean gradient.
        rho: The radius of the perturbed points whose gradients stateful estimators receive.
        shared: Shared parameters or modules, as for `samo.Engine`.
        own: Task-specific parameters or modules by task, as for `samo.Engine`.
        seed: The seed of the estimators' random numbers.
        sizes: Returns the number of examples in a batch, see `hessian_spectrum`; here only whether
            a task has any matters.

    Returns:
        The cosines.

    Raises:
        AnalysisError: If there is no data, no estimator or no shared parameter, an estimator groups
            tasks, or ``rho`` or ``alpha`` is out of range.
        NonFiniteError: If a loss or a gradient is not finite.

    Example:
        >>> import torch, samo, samo.analysis
        >>> model = torch.nn.Linear(8, 2)
        >>> def losses(x, tasks):
        ...     return {"a": model(x)[:, 0].exp().mean(), "b": model(x)[:, 1].square().mean()}
        >>> found = samo.analysis.estimator_quality(
        ...     model, losses, torch.randn(4, 16, 8), ["a", "b"], {"exact": samo.ExactGradient()}
        ... )
        >>> [round(value, 4) for value in found.direction["exact"].mean]
        [1.0, 1.0]
    """
    _check(estimators, alpha, rho)
    comparison = _Comparison(copy.deepcopy(dict(estimators)), alpha)
    perturbation = Perturbation(rho, alpha=0.0, local=comparison)
    with undisturbed(model) as isolated:
        data = Data(losses, batches, tasks, sizes)
        for step, shares in steps(
            model,
            data,
            isolated,
            "upgrad",
            perturbation,
            decompose=True,  # which computes the exact gradients of all tasks
            shared=shared,
            own=own,
            seed=seed,
        ):
            for task in shares:
                comparison.pass_on(task, step.gradients.row(task))
    directions, epsilons = comparison.directions, comparison.epsilons
    return EstimatorQuality(
        tasks=data.tasks,
        alpha=float(alpha),
        parameters=comparison.dimension,
        mean_gradient=_agreement(comparison.means, data.tasks),
        direction={name: _agreement(directions[name], data.tasks) for name in estimators},
        epsilon={name: _agreement(epsilons[name], data.tasks) for name in estimators},
        batches=data.n_batches,
    )


def _check(estimators: Mapping[str, LocalGradient], alpha: float, rho: float) -> None:
    if not estimators:
        raise AnalysisError("estimators is empty; give for instance {'spsa': samo.SPSA()}.")
    for name, estimator in estimators.items():
        if estimator.groups_tasks:
            raise AnalysisError(
                f"estimators[{name!r}] must estimate each task separately; found {estimator!r}, "
                f"which perturbs several tasks together."
            )
    if not 0 <= alpha < 1:
        raise AnalysisError(f"alpha must be in [0, 1): with 1 there is no estimate; found {alpha}.")
    if not rho > 0:
        raise AnalysisError(f"rho must be > 0; found {rho}.")


CosinesByTask = defaultdict[str, list[float]]
"""Cosines by task."""


class _Comparison(LocalGradient):
    """The exact gradient, which also evaluates the compared estimators."""

    exact: ClassVar[bool] = True

    def __init__(self, estimators: Mapping[str, LocalGradient], alpha: float) -> None:
        self._estimators = estimators
        self._alpha = alpha
        self._names: list[str] = []
        self._exact: dict[str, Vector] = {}
        self.dimension = 0
        self.means: CosinesByTask = defaultdict(list)
        self.directions = {name: CosinesByTask(list) for name in estimators}
        self.epsilons = {name: CosinesByTask(list) for name in estimators}

    def estimate(self, probe: Probe) -> Vector:
        gradient, mean, task = probe.gradient(), probe.mean, probe.task
        # Estimators may return vectors in the same storage, and the engine overwrites its own.
        self._exact[task] = exact = gradient.layout.copy_of(gradient.tensors)
        self._names, self.dimension = probe.names, sum(flat.numel() for flat in exact.flats)
        self.means[task].append(_cosine(mean, exact))
        for name, estimator in self._estimators.items():
            found = estimator.estimate(probe)
            self.directions[name][task].append(_cosine(found, exact))
            found.mul_(1 - self._alpha).add_(mean.tensors, self._alpha)
            self.epsilons[name][task].append(_cosine(found, exact))
        return exact.layout.copy_of(exact.tensors)

    def pass_on(self, task: str, flat: Vector) -> None:
        """Passes a task's gradient at the perturbed point to the stateful estimators.

        Args:
            task: The task.
            flat: The gradient at the perturbed point minus the natural gradient.
        """
        for estimator in self._estimators.values():
            if estimator.remembers:
                there = torch._foreach_add(self._exact[task].tensors, flat.tensors)
                estimator.remember(task, dict(zip(self._names, there, strict=True)))


def _cosine(one: Vector, two: Vector) -> float:
    pairs = zip(one.flats, two.flats, strict=True)
    inner = sum(torch.dot(a.double(), b.double()).item() for a, b in pairs)
    return inner * float(ratio(1.0, one.norm().double() * two.norm().double()))


def _agreement(cosines: Mapping[str, Sequence[float]], tasks: Sequence[str]) -> Agreement:
    found = [cosines[task] for task in tasks]
    return Agreement(
        tuple(statistics.fmean(values) for values in found),
        tuple(statistics.stdev(values) if len(values) > 1 else 0.0 for values in found),
    )
