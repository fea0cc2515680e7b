"""The runs of a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from urllib.parse import quote

from torch import nn

from .. import aggregation, benchmarks
from .._names import unknown
from ..records import RunError
from ..records.schema import preset_at, sides, weights_of
from ._config import LEVELS, RunConfig, configured
from ._errors import as_run_error
from ._presets import PRESETS, complete_preset
from ._run import make_engine

FIRST_TUNING_SEED = 1000
"""Trials have the seeds from here on, and comparisons those below, so that no run has both uses."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        path: Its directory, relative to the comparison's.
        config: Its configuration.
        baseline: Whether it is a single-task baseline.
        weights: The weights that it is reported for; all that it scores if None.
    """

    path: str
    config: RunConfig
    baseline: bool = False
    weights: tuple[str, ...] | None = None


def plan(
    benchmark: str,
    methods: Sequence[str],
    sharpness: Sequence[str],
    rhos: Sequence[float],
    seeds: int,
    *,
    levels: Sequence[str] = ("parameter",),
    stl: bool = True,
    **common: Any,
) -> list[Cell]:
    """Lists the runs: each method with each preset, level, ρ and seed, and single-task baselines.

    All runs of a seed start from the same weights and see the same batches. A method and a preset
    that cannot compare task gradients at a level are at the parameters instead, once.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        rhos: The values of ρ for presets with a perturbation; the benchmark's if empty.
        seeds: The number of seeds; they are 0, 1, ...
        levels: The levels at which task gradients are compared.
        stl: Whether to train the single-task baselines.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The runs.

    Raises:
        RunError: If a name is unknown, a value missing or out of range, or no method and preset can
            be at a level.

    Example:
        >>> [cell.path for cell in plan("digits", ["ls"], ["erm", "gsam"], [0.1], seeds=1)]
        ['stl/left/seed-0', 'stl/right/seed-0', 'ls/erm/seed-0', 'ls/gsam/rho-0.1/seed-0']
    """
    check_seeds(seeds)
    shared = {"benchmark": benchmark, **common}
    made = benchmark_of(shared)
    arms = choose_arms(shared, made.tasks, methods, sharpness, levels)
    grid = list(dict.fromkeys(rhos or made.defaults.rho_grid))
    cells = []
    for seed in range(seeds):
        cells += baselines(shared, made.tasks, seed) if stl else []
        for method, preset, level in arms:
            arm = {"method": method, "sharpness": preset, "level": level, "seed": seed}
            for rho in grid if PRESETS[preset].perturb else [None]:
                path = arm_path(method, preset, level) + ("" if rho is None else f"/rho-{rho:g}")
                cells.append(Cell(f"{path}/seed-{seed}", configured(**shared, **arm, rho=rho)))
    return cells


def check_seeds(seeds: int) -> None:
    """Raises a RunError if there are no seeds, or more than precede those of tuning."""
    if seeds < 1:
        raise RunError(f"seeds must be at least 1; found {seeds}.")
    if seeds > FIRST_TUNING_SEED:
        raise RunError(f"seeds must be at most {FIRST_TUNING_SEED}; found {seeds}.")


def benchmark_of(common: Mapping[str, Any]) -> benchmarks.Benchmark:
    """Creates the benchmark that all runs share; raises RunError."""
    options = common.get("benchmark_options") or {}
    with as_run_error(ValueError, TypeError, OSError, ImportError):
        return benchmarks.create(common["benchmark"], **options)


def choose_arms(
    common: Mapping[str, Any],
    tasks: Sequence[str],
    methods: Sequence[str],
    sharpness: Sequence[str],
    levels: Sequence[str],
) -> list[tuple[str, str, str]]:
    """Combines methods, presets and levels.

    Methods that do not compare task gradients, and combinations that the engine refuses, are at the
    parameters instead of the representation.

    Returns:
        A method, a preset and a level for each arm.

    Raises:
        RunError: If a name is unknown or missing, a method does not fit the tasks, or the engine
            refuses a level to all methods and presets.
    """
    with as_run_error(ValueError):
        kinds = {kind.name: kind for kind in map(aggregation.describe, methods)}
        for name in sharpness:
            complete_preset(name, {})
    for level in levels:
        if level not in LEVELS:
            raise RunError(unknown("level", level, LEVELS))
    if not kinds or not sharpness or not levels:
        raise RunError("give at least one method, one sharpness preset and one level.")
    arms: dict[tuple[str, str, str], None] = {}
    refusals = []
    for method, preset in product(kinds, sharpness):
        config = configured(**common, method=method, sharpness=preset)
        check_engine(config, tasks)
        for level in levels:
            possible = level if kinds[method].levels else "parameter"
            try:
                check_engine(config.model_copy(update={"level": level}), tasks)
            except RunError as refusal:
                refusals.append(refusal)
                possible = "parameter"
            arms[method, preset, possible] = None
    if refusals and {level for _, _, level in arms} == {"parameter"}:
        raise refusals[0]
    return list(arms)


def check_contrasts(contrasts: Sequence[str], cells: Sequence[Cell]) -> None:
    """Raises RunError if a contrast is malformed, or names an arm that no run has."""
    arms: dict[str, None] = {}
    for cell in (cell for cell in cells if not cell.baseline):
        config = cell.config
        for weights in cell.weights or weights_of(config.plain()):
            preset = preset_at(config.sharpness, config.level, weights)
            arms |= dict.fromkeys((preset, f"{config.method}/{preset}"))
    for contrast in contrasts:
        for name in sides(contrast):
            if name not in arms:
                raise RunError(f"contrast {contrast!r}: {unknown('arm', name, arms)}")


def check_engine(config: RunConfig, tasks: Sequence[str]) -> None:
    """Raises RunError if a run's method, preset and level do not fit together, or the tasks."""
    make_engine(config, nn.Linear(1, 1), tasks)


def arm_path(method: str, preset: str, level: str) -> str:
    """Names a method with a preset at a level; also the directory of its runs."""
    return f"{method}/{preset_at(preset, level)}"


def baselines(common: Mapping[str, Any], tasks: Sequence[str], seed: int) -> list[Cell]:
    """Lists the single-task runs of a seed, one for each task."""
    return [
        Cell(
            f"stl/{_file_name(task)}/seed-{seed}",
            configured(**common, tasks=(task,), seed=seed),
            baseline=True,
        )
        for task in tasks
    ]


def _file_name(task: str) -> str:
    """Percent-encodes characters not allowed in a path, so that names of tasks stay distinct."""
    return re.sub(r"[^\w.+-]", lambda found: quote(found[0], safe=""), task)
