"""Sharpness presets by name, for the command line and a run's configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import (
    SPSA,
    LastLayers,
    LocalGradient,
    Momentum,
    Perturbation,
    PreviousGradient,
    RandomDirection,
    TaskGroups,
)
from .._presets import along_own_gradient, along_the_mean
from ..perturbations import Displacement
from ._defaults import completed

_SWITCHES = {"adaptive": False, "decompose": False}
_COMMON = {"rho_own": None, **_SWITCHES}


@dataclass(frozen=True)
class Preset:
    """A kind of perturbation.

    Attributes:
        title: Description in one line.
        perturb: Creates the perturbation from ρ and the options; None for plain training.
        options: The names of its options, with their defaults.
        decompose: Whether it always aggregates loss gradients and flat gradients separately (an
            option of most others).
    """

    title: str
    perturb: Callable[..., Displacement] | None
    options: Mapping[str, Any]
    decompose: bool = False

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels at which it can compare task gradients, with its default options.

        Only gradients of one forward pass can be compared at the representation: neither those at
        points of each task's own, nor flat gradients.
        """
        options = {name: value for name, value in self.options.items() if name != "decompose"}
        moved = None if self.perturb is None else self.perturb(1.0, **options).ascending
        apart = self.decompose or (moved is not None and moved.estimator is not None)
        return ("parameter",) if apart else ("parameter", "representation")


def _estimating(title: str, estimator: Callable[..., LocalGradient]) -> Preset:
    """Creates the preset of an estimator; the estimator's arguments become options."""

    def perturb(
        rho: float, rho_own: float | None, alpha: float, adaptive: bool, **options: Any
    ) -> Perturbation:
        local = estimator(**options)
        return Perturbation(rho, rho_own=rho_own, alpha=alpha, local=local, adaptive=adaptive)

    own = {name: p.default for name, p in inspect.signature(estimator).parameters.items()}
    return Preset(title, perturb, {"alpha": 0.5, **own, **_COMMON})


def _of_heads(rho: float, adaptive: bool) -> Perturbation:
    return Perturbation(0.0, rho_own=rho, adaptive=adaptive)


PRESETS: dict[str, Preset] = {
    "erm": Preset("plain multi-task training: no perturbation", None, {}),
    "gsam": Preset(
        "one perturbation for all tasks, along the mean gradient (α = 1)", along_the_mean, _COMMON
    ),
    "msam": Preset(
        "all tasks at one point ahead, along past gradients: the passes of erm",
        Momentum,
        {"beta": 0.9, "adaptive": False},
    ),
    "heads": Preset(
        "the tasks' own parameters are perturbed, with the radius ρ; the shared ones are not",
        _of_heads,
        _SWITCHES,
    ),
    "lsam": Preset(
        "one perturbation per task, along its exact gradient (α = 0)", along_own_gradient, _COMMON
    ),
    "fmtl": Preset(
        "lsam, with loss gradients and flat gradients aggregated separately",
        along_own_gradient,
        {"rho_own": None, "adaptive": False},
        decompose=True,
    ),
    "samo": _estimating("mean gradient combined with an SPSA estimate of the task's own", SPSA),
    "random": _estimating(
        "samo with random directions instead of estimates (the control)", RandomDirection
    ),
    "previous": _estimating(
        "samo with each task's gradient of the previous step", PreviousGradient
    ),
    "groups": _estimating(
        "samo with the exact gradients of groups of similar tasks, one perturbation per group",
        TaskGroups,
    ),
    "last-layers": _estimating(
        "samo with the exact gradient of the last shared layers", LastLayers
    ),
}


def complete_preset(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults to the options of a preset.

    Returns:
        All options.

    Raises:
        ValueError: If the preset or an option is unknown.

    Example:
        >>> complete_preset("gsam", {"adaptive": True})
        {'rho_own': None, 'adaptive': True, 'decompose': False}
    """
    return completed("sharpness preset", name, PRESETS, options)


def perturbation(
    name: str, rho: float | None, options: Mapping[str, Any]
) -> tuple[Displacement | None, bool]:
    """Creates the arguments ``perturbation`` and ``decompose`` of `samo.Engine`.

    Args:
        name: The preset.
        rho: The radius; None for plain training.
        options: Its options, all or some.

    Returns:
        The perturbation, or None, and whether the aggregation is decomposed.

    Raises:
        ValueError: If a name is unknown or a value out of range.
        TypeError: If a value has a wrong type.
    """
    chosen = complete_preset(name, options)
    preset = PRESETS[name]
    decompose = bool(chosen.pop("decompose", preset.decompose))
    if preset.perturb is None:
        return None, decompose
    return preset.perturb(rho, **chosen), decompose
