"""How good estimators of the local gradient are."""

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
    """How well ascent directions agree with the exact local gradients.

    Attributes:
        tasks: The tasks.
        alpha: The weight α of the mean gradient in ε_i.
        parameters: The number of shared parameters d; a random direction has a cosine of the
            order of 1/√d.
        mean_gradient: The cosine of g_0, the mean gradient, with ∇l_i: what α = 1 would give.
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
    r"""Measures the cosine of estimates, and of the ε that they lead to, with the exact gradient.

    .. math::
        \cos(\hat g_i, \nabla_\theta l_i) \quad \text{and} \quad
        \cos(\alpha g_0 + (1 - \alpha) \hat g_i, \nabla_\theta l_i)

    Each batch is a step of `samo.Engine` that changes nothing, the model in evaluation mode (see
    `hessian_spectrum`). All estimators are asked about the same steps, along the exact gradients;
    one that remembers (`samo.PreviousGradient`) is told the gradients of the batch before, at
    parameters that have not moved since.

    Args:
        model: The model. It is left as it was.
        losses: Maps a batch and names of tasks to their losses, means over the batch.
        batches: The batches, an iterable that can be gone through again and again.
        tasks: The names of the tasks.
        estimators: The estimators, by the names that they shall have in the result.
        alpha: The weight α of the mean gradient.
        rho: The radius of the points whose gradients an estimator that remembers is told.
        shared: Parameters or modules that are shared, as `samo.Engine` takes them.
        own: Parameters or modules that are one task's own, likewise.
        seed: The seed of the estimators' random numbers.
        sizes: The number of a batch's examples, see `hessian_spectrum`; only whether a task has
            any matters.

    Returns:
        The cosines.

    Raises:
        AnalysisError: If there is no data, no estimator, one that groups tasks, no parameter that
            the tasks share, or ``rho`` or ``alpha`` is out of range.
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
    with undisturbed(model) as alone:
        data = Data(losses, batches, tasks, sizes)
        for step, shares in steps(
            model,
            data,
            alone,
            "upgrad",
            perturbation,
            decompose=True,  # so that the exact gradients are there for all
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
                f"estimators[{name!r}] must estimate each task by itself; found {estimator!r}, "
                f"which perturbs several tasks together."
            )
    if not 0 <= alpha < 1:
        raise AnalysisError(f"alpha must be in [0, 1): with 1 there is no estimate; found {alpha}.")
    if not rho > 0:
        raise AnalysisError(f"rho must be > 0; found {rho}.")


Found = defaultdict[str, list[float]]
"""Cosines by task."""


class _Comparison(LocalGradient):
    """The exact gradient, which asks estimators for theirs on the way."""

    exact: ClassVar[bool] = True

    def __init__(self, estimators: Mapping[str, LocalGradient], alpha: float) -> None:
        self._estimators = estimators
        self._alpha = alpha
        self._names: list[str] = []
        self._exact: dict[str, Vector] = {}
        self.dimension = 0
        self.means: Found = defaultdict(list)
        self.directions = {name: Found(list) for name in estimators}
        self.epsilons = {name: Found(list) for name in estimators}

    def estimate(self, probe: Probe) -> Vector:
        gradient, mean, task = probe.gradient(), probe.mean, probe.task
        # The estimators' vectors may lie in the same storage, and the engine overwrites its own.
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
        """Tells the estimators that remember a task's gradient at the perturbed point.

        Args:
            task: The task.
            flat: What it has more than the natural gradient.
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
