"""The runs of a comparison."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .. import aggregation, benchmarks
from ..records import RunError
from ._config import RunConfig, configured
from ._errors import as_run_error
from ._presets import PRESETS, complete_preset


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        path: Its directory, relative to the comparison's.
        config: Its configuration.
        baseline: Whether it is a single-task baseline.
    """

    path: str
    config: RunConfig
    baseline: bool = False


def plan(
    benchmark: str,
    methods: Sequence[str],
    sharpness: Sequence[str],
    rhos: Sequence[float],
    seeds: int,
    *,
    stl: bool = True,
    **common: Any,
) -> list[Cell]:
    """Lists the runs: each method with each preset, ρ and seed, and the single-task baselines.

    All runs of a seed start from the same weights and see the same batches.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        rhos: The values of ρ for presets with a perturbation; the benchmark's if empty.
        seeds: The number of seeds; they are 0, 1, ...
        stl: Whether to train the single-task baselines.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The runs.

    Raises:
        RunError: If a name is unknown, a value missing or out of range.

    Example:
        >>> [cell.path for cell in plan("digits", ["ls"], ["erm", "gsam"], [0.1], seeds=1)]
        ['stl/left/seed-0', 'stl/right/seed-0', 'ls/erm/seed-0', 'ls/gsam/rho-0.1/seed-0']
    """
    check_seeds(seeds)
    shared = {"benchmark": benchmark, **common}
    made = benchmark_of(shared)
    arms = pairs(methods, sharpness)
    for method in dict(arms):
        with as_run_error(ValueError, TypeError, OSError, ImportError):
            aggregation.create(method, len(made.tasks))
    grid = list(dict.fromkeys(rhos or made.defaults.rho_grid))
    cells = []
    for seed in range(seeds):
        cells += baselines(shared, made.tasks, seed) if stl else []
        for method, preset in arms:
            for rho in grid if PRESETS[preset].perturb else [None]:
                config = configured(**shared, method=method, sharpness=preset, rho=rho, seed=seed)
                path = f"{method}/{preset}" + ("" if rho is None else f"/rho-{rho:g}")
                cells.append(Cell(f"{path}/seed-{seed}", config))
    return cells


def check_seeds(seeds: int) -> None:
    """Raises a RunError if there are no seeds."""
    if seeds < 1:
        raise RunError(f"seeds must be at least 1; found {seeds}.")


def benchmark_of(common: Mapping[str, Any]) -> benchmarks.Benchmark:
    """Creates the benchmark that all runs share; raises RunError."""
    options = common.get("benchmark_options") or {}
    with as_run_error(ValueError, TypeError, OSError, ImportError):
        return benchmarks.create(common["benchmark"], **options)


def pairs(methods: Sequence[str], sharpness: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs each method with each preset; raises RunError if a name is unknown or missing."""
    with as_run_error(ValueError):
        names = dict.fromkeys(aggregation.describe(name).name for name in methods)
        for name in sharpness:
            complete_preset(name, {})
    if not names or not sharpness:
        raise RunError("give at least one method and one sharpness preset.")
    return [(method, preset) for method in names for preset in dict.fromkeys(sharpness)]


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
