"""The sharpness presets by name, as the command line and a run's configuration have them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import (
    SPSA,
    LastLayers,
    LocalGradient,
    Perturbation,
    PreviousGradient,
    RandomDirection,
    TaskGroups,
)
from .._names import unknown
from .._presets import along_own_gradient, along_the_mean

_COMMON = {"adaptive": False, "decompose": False}


@dataclass(frozen=True)
class Preset:
    """A way to perturb.

    Attributes:
        title: What it is, in a line.
        perturb: Makes the perturbation from ρ and the options; None for plain training.
        options: The names of its options, with their defaults.
        decompose: Whether it always aggregates loss gradients and flat gradients apart; elsewhere
            that is an option.
    """

    title: str
    perturb: Callable[..., Perturbation] | None
    options: Mapping[str, Any]
    decompose: bool = False


def _estimating(title: str, estimator: Callable[..., LocalGradient]) -> Preset:
    """The preset of an estimator, with its arguments as options."""

    def perturb(rho: float, alpha: float, adaptive: bool, **options: Any) -> Perturbation:
        return Perturbation(rho, alpha=alpha, local=estimator(**options), adaptive=adaptive)

    own = {name: p.default for name, p in inspect.signature(estimator).parameters.items()}
    return Preset(title, perturb, {"alpha": 0.5, **own, **_COMMON})


PRESETS: dict[str, Preset] = {
    "erm": Preset("plain multi-task training: no perturbation", None, {}),
    "gsam": Preset(
        "one perturbation for all tasks, along the mean gradient (α = 1)", along_the_mean, _COMMON
    ),
    "lsam": Preset(
        "a perturbation a task, along its exact gradient (α = 0)", along_own_gradient, _COMMON
    ),
    "fmtl": Preset(
        "as lsam; loss gradients and flat gradients are aggregated apart",
        along_own_gradient,
        {"adaptive": False},
        decompose=True,
    ),
    "samo": _estimating("mean gradient and SPSA estimate of the task's own, joined", SPSA),
    "random": _estimating(
        "samo with random directions instead of estimates: the control", RandomDirection
    ),
    "previous": _estimating("samo with each task's gradient of the step before", PreviousGradient),
    "groups": _estimating(
        "samo with the exact gradients of groups of similar tasks, a perturbation a group",
        TaskGroups,
    ),
    "last-layers": _estimating(
        "samo with the exact gradient of the last shared layers", LastLayers
    ),
}


def complete(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the defaults of a preset's options.

    Args:
        name: The preset.
        options: Those that were given.

    Returns:
        All options.

    Raises:
        ValueError: If the preset or an option is unknown.

    Example:
        >>> complete("gsam", {"adaptive": True})
        {'adaptive': True, 'decompose': False}
    """
    if name not in PRESETS:
        raise ValueError(unknown("sharpness preset", name, PRESETS))
    allowed = PRESETS[name].options
    for option in options:
        if option not in allowed:
            raise ValueError(unknown(f"option of sharpness preset {name!r},", option, allowed))
    return {**allowed, **options}


def perturbation(
    name: str, rho: float | None, options: Mapping[str, Any]
) -> tuple[Perturbation | None, bool]:
    """Makes what `samo.Engine` needs.

    Args:
        name: The preset.
        rho: The radius; None for plain training.
        options: Its options, all or some.

    Returns:
        The perturbation, or None, and whether the aggregation is decomposed.

    Raises:
        ValueError: If a name is unknown or a value out of its range.
        TypeError: If a value is of a wrong type.
    """
    chosen = complete(name, options)
    preset = PRESETS[name]
    decompose = bool(chosen.pop("decompose", preset.decompose))
    if preset.perturb is None:
        return None, decompose
    return preset.perturb(rho, **chosen), decompose
