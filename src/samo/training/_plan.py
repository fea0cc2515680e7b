"""Which runs a comparison consists of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .. import aggregation, benchmarks
from ._config import RunConfig, configured
from ._errors import RunError
from ._sharpness import PRESETS, complete


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        path: Its directory, below that of the comparison.
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

    All runs of one seed begin with the same weights and see the same batches, whatever the rest is.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        rhos: The values of ρ to choose from, the same for each preset that has one; the benchmark's
            if there are none.
        seeds: How many seeds, from 0.
        stl: Whether to train the single-task baselines.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The runs.

    Raises:
        RunError: If something is unknown, missing, or out of its range.

    Example:
        >>> [cell.path for cell in plan("digits", ["ls"], ["erm", "gsam"], [0.1], seeds=1)]
        ['stl/left/seed-0', 'stl/right/seed-0', 'ls/erm/seed-0', 'ls/gsam/rho-0.1/seed-0']
    """
    if seeds < 1:
        raise RunError(f"seeds must be at least 1; found {seeds}.")
    shared = {"benchmark": benchmark, **common}
    try:
        made = benchmarks.create(benchmark, **(common.get("benchmark_options") or {}))
        methods = list(dict.fromkeys(aggregation.describe(name).name for name in methods))
        for name in methods:
            aggregation.create(name, len(made.tasks))
        for name in sharpness:
            complete(name, {})
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RunError(str(error)) from error
    grid = list(dict.fromkeys(rhos or made.defaults.rho_grid))
    if not methods or not sharpness:
        raise RunError("name at least one method and one sharpness preset.")
    cells = []
    for seed in range(seeds):
        cells += baselines(shared, made.tasks, seed) if stl else []
        for method in methods:
            for preset in dict.fromkeys(sharpness):
                for rho in grid if PRESETS[preset].perturb else [None]:
                    config = configured(
                        **shared, method=method, sharpness=preset, rho=rho, seed=seed
                    )
                    path = f"{method}/{preset}" + ("" if rho is None else f"/rho-{rho:g}")
                    cells.append(Cell(f"{path}/seed-{seed}", config))
    return cells


def baselines(common: Mapping[str, Any], tasks: Sequence[str], seed: int) -> list[Cell]:
    """Lists the single-task runs of a seed.

    Args:
        common: The fields of `RunConfig` that all runs share.
        tasks: The tasks.
        seed: The seed.

    Returns:
        A run a task.
    """
    return [
        Cell(
            f"stl/{_file_name(task)}/seed-{seed}",
            configured(**common, tasks=(task,), seed=seed),
            baseline=True,
        )
        for task in tasks
    ]


def _file_name(task: str) -> str:
    """The task's name, with what may not stand in a path as in a URL: no two have the same."""
    return re.sub(r"[^\w.+-]", lambda found: quote(found[0], safe=""), task)
