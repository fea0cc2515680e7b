"""The published methods, as presets of `Engine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypedDict, Unpack

import torch
from torch import nn
from torch.distributed import ProcessGroup

from .aggregation import TorchJDObject
from .engine import Declared, Engine, Level
from .perturbations import SPSA, ExactGradient, LocalGradient, Momentum, Perturbation, Where

along_the_mean = partial(Perturbation, alpha=1.0)
along_own_gradient = partial(Perturbation, alpha=0.0, local=ExactGradient())

AnyMethod = str | TorchJDObject


class EngineOptions(TypedDict, total=False):
    """Options that presets pass on to `Engine`."""

    shared: Declared | None
    own: Mapping[str, Declared] | None
    seed: int
    process_group: ProcessGroup | None
    sync_perturbation: bool
    gradient_dtype: torch.dtype | None
    level: Level
    guards: Iterable[nn.Module]


class Options(EngineOptions, total=False):
    """Options that presets with a perturbation pass on to `Engine`."""

    decompose: bool


def ERM(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    **options: Unpack[EngineOptions],
) -> Engine:
    """Plain multi-task learning: no perturbation.

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs a forward pass and K backward passes (one if the weights are known
        before the gradients).
    """
    return Engine(model, tasks, aggregator=aggregator, **options)


def GSAM(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    rho: float = 0.05,
    rho_own: float | None = None,
    adaptive: bool = False,
    where: Where | None = None,
    **options: Unpack[Options],
) -> Engine:
    """Global SAM, "G-SAM" of the SAMO paper (§4.2): one ε for all tasks, along g_0 (α = 1).

    This is not the "surrogate gap" GSAM of Zhuang et al. (ICLR 2022).

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        rho: The radius ρ.
        rho_own: The radius of the tasks' own perturbations η_i; ρ if None.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the perturbation; see `Perturbation`.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs two forward and K + 1 backward passes.
    """
    perturbation = along_the_mean(rho, rho_own=rho_own, adaptive=adaptive, where=where)
    return Engine(model, tasks, aggregator=aggregator, perturbation=perturbation, **options)


def LSAM(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    rho: float = 0.05,
    rho_own: float | None = None,
    adaptive: bool = False,
    where: Where | None = None,
    **options: Unpack[Options],
) -> Engine:
    """Local SAM, "L-SAM" of the SAMO paper (§4.2): each ε_i along the exact ∇l_i (α = 0).

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        rho: The radius ρ.
        rho_own: The radius of the tasks' own perturbations η_i; ρ if None.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the perturbation; see `Perturbation`.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs K + 1 forward and 2K backward passes.
    """
    perturbation = along_own_gradient(rho, rho_own=rho_own, adaptive=adaptive, where=where)
    return Engine(model, tasks, aggregator=aggregator, perturbation=perturbation, **options)


def FMTL(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    rho: float = 0.05,
    rho_own: float | None = None,
    adaptive: bool = False,
    where: Where | None = None,
    **options: Unpack[Options],
) -> Engine:
    """F-MTL (arXiv 2211.13723, Alg. 1): L-SAM with loss and flat gradients aggregated separately.

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        rho: The radius ρ.
        rho_own: The radius of the tasks' own perturbations η_i; ρ if None.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the perturbation; see `Perturbation`.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs K + 1 forward and 2K backward passes, and two aggregations.
    """
    options.setdefault("decompose", True)
    perturbation = along_own_gradient(rho, rho_own=rho_own, adaptive=adaptive, where=where)
    return Engine(model, tasks, aggregator=aggregator, perturbation=perturbation, **options)


def SAMO(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    rho: float = 0.05,
    rho_own: float | None = None,
    alpha: float = 0.5,
    local: LocalGradient | None = None,
    adaptive: bool = False,
    where: Where | None = None,
    **options: Unpack[Options],
) -> Engine:
    """SAMO (arXiv 2507.07883, Alg. 1): a combined global and local perturbation, with SPSA.

    The paper's own values are ρ = 0.001, α = 0.5, μ = 0.01 (QM9: ρ = 0.00001, α = 0.1).

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        rho: The radius ρ.
        rho_own: The radius of the tasks' own perturbations η_i; ρ if None.
        alpha: The weight α of the mean gradient.
        local: The estimator of the local gradient; ``SPSA(mu=0.01)`` if None.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the perturbation; see `Perturbation`.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs 3K + 1 forward passes (2K of them without a graph) and K + 1
        backward passes.
    """
    perturbation = Perturbation(
        rho,
        rho_own=rho_own,
        alpha=alpha,
        local=local or SPSA(mu=0.01),
        adaptive=adaptive,
        where=where,
    )
    return Engine(model, tasks, aggregator=aggregator, perturbation=perturbation, **options)


def MSAM(
    model: nn.Module,
    tasks: Sequence[str],
    *,
    aggregator: AnyMethod,
    rho: float = 0.05,
    beta: float = 0.9,
    adaptive: bool = False,
    where: Where | None = None,
    **options: Unpack[EngineOptions],
) -> Engine:
    """Momentum-SAM (arXiv 2401.12033): all tasks at one point ahead, at the cost of `ERM`.

    See `Momentum` for the equations, and for what differs: the losses and buffers of a step are
    those of the displaced point, and there is no sharpness.

    Args:
        model: The model.
        tasks: The names of the tasks.
        aggregator: A method's name or a TorchJD object.
        rho: The radius ρ.
        beta: The decay β of the running mean of the gradients.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the displacement; see `Perturbation`.
        **options: Further options of `Engine`.

    Returns:
        The engine. A step costs what it costs with `ERM`.
    """
    perturbation = Momentum(rho, beta=beta, adaptive=adaptive, where=where)
    return Engine(model, tasks, aggregator=aggregator, perturbation=perturbation, **options)
