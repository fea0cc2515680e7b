"""The setting of a descent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import aggregation
from .._names import unknown
from ..training import PRESETS, RunError, complete_preset, perturbation
from ._problem import Problem
from ._problems import PROBLEMS


@dataclass(frozen=True)
class Setting:
    """All settings that the result of a descent depends on; constructed by `setting`.

    Attributes:
        problem: The problem.
        method: The aggregation method.
        sharpness: The sharpness preset.
        rho: The radius ρ of the perturbation; None for plain training.
        start: The starting point.
        steps: The number of steps.
        lr: Adam's learning rate.
        seed: The seed of all random numbers.
        method_options: The options of the method.
        sharpness_options: All options of the preset.
    """

    problem: Problem
    method: str
    sharpness: str
    rho: float | None
    start: tuple[float, float]
    steps: int
    lr: float
    seed: int
    method_options: Mapping[str, Any]
    sharpness_options: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Returns the fields for JSON, with the problem as its name."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "problem": self.problem.name, "start": list(self.start)}


def setting(
    problem: Problem | str,
    *,
    method: str = "ls",
    sharpness: str = "erm",
    rho: float | None = None,
    start: Sequence[float] | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    method_options: Mapping[str, Any] | None = None,
    sharpness_options: Mapping[str, Any] | None = None,
) -> Setting:
    """Creates a setting; omitted arguments take the problem's defaults.

    Args:
        problem: The problem, or the name of one of `PROBLEMS`.
        method: The aggregation method (see `samo.aggregation.available`).
        sharpness: The sharpness preset (see ``samo list``).
        rho: The radius ρ of the perturbation.
        start: The starting point, within the problem's box; by default the problem's first.
        steps: The number of steps.
        lr: Adam's learning rate.
        seed: The seed of all random numbers.
        method_options: The options of the method, as for `samo.aggregation.create`.
        sharpness_options: Further options of the preset, such as alpha, mu and adaptive.

    Returns:
        The setting.

    Raises:
        RunError: If a name is unknown or a value is out of its range.

    Example:
        >>> setting("valley", sharpness="gsam").rho
        1.5
    """
    if isinstance(problem, str):
        if problem not in PROBLEMS:
            raise RunError(unknown("problem", problem, PROBLEMS))
        problem = PROBLEMS[problem]
    start = _checked_start(problem, problem.starts[0] if start is None else start)
    steps = problem.steps if steps is None else steps
    lr = problem.lr if lr is None else lr
    if steps < 1:
        raise RunError(f"steps must be at least 1; found {steps}.")
    if not (lr > 0 and math.isfinite(lr)):
        raise RunError(f"lr must be positive; found {lr}.")
    if seed < 0:
        raise RunError(f"seed must not be negative; found {seed}.")
    plain = sharpness in PRESETS and PRESETS[sharpness].perturb is None
    if plain and rho is not None:
        raise RunError(f"rho = {rho} has no meaning for sharpness {sharpness!r}.")
    try:
        method, options = aggregation.describe(method).name, dict(method_options or {})
        aggregation.create(method, len(problem.tasks), **options)
        rho = problem.rho if rho is None and not plain else rho
        others = complete_preset(sharpness, sharpness_options or {})
        perturbation(sharpness, rho, others)
    except (ValueError, TypeError, ImportError) as error:
        raise RunError(str(error)) from error
    return Setting(problem, method, sharpness, rho, start, steps, lr, seed, options, others)


def _checked_start(problem: Problem, start: Sequence[float]) -> tuple[float, float]:
    if len(start) != 2 or not all(map(math.isfinite, start)):
        raise RunError(f"start must be two numbers; found {start}.")
    if problem.box is not None and not problem.box.holds(start):
        raise RunError(
            f"start must be within {problem.box.low} .. {problem.box.high}, the box of problem "
            f"{problem.name!r}; found {tuple(start)}."
        )
    return float(start[0]), float(start[1])
