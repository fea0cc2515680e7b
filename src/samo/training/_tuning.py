"""Choice of the learning rate and ρ of each arm from lists, with equal numbers of trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from ..records import RunError, write_json
from ..records.directory import RunDirectory
from ._chosen import Best, scores_of, tuning_seeds, write_search
from ._compare import run_cells
from ._config import configured
from ._plan import Cell, benchmark_of, choose_arms
from ._space import Arm, Choices, applies
from ._workers import Event

_SETTINGS = ("lr", "rho")


@dataclass(frozen=True)
class Tuning:
    """Lists of values to choose from.

    Attributes:
        arms: The methods and presets, each with its lists.
        lists: The values of ``lr`` and of ``rho``, in increasing order.
        trial_seeds: The number of seeds over which the score of a trial is averaged.
        tasks: The benchmark's tasks.
    """

    arms: tuple[Arm, ...]
    lists: Mapping[str, tuple[float, ...]]
    trial_seeds: int
    tasks: tuple[str, ...]

    def cells(self, arm: Arm) -> dict[str, list[Cell]]:
        """Lists the runs of each trial of an arm, by the trial's directory."""
        found = {}
        for params in _settings(arm):
            trial = "/".join([arm.name, *(f"{name}-{value:g}" for name, value in params.items())])
            seeds = tuning_seeds(self.trial_seeds)
            found[trial] = [arm.cell(trial, params, seed) for seed in seeds]
        return found

    @property
    def all_cells(self) -> list[Cell]:
        """The runs of all trials."""
        return [cell for arm in self.arms for cells in self.cells(arm).values() for cell in cells]


def plan_tuning(
    benchmark: str,
    methods: Sequence[str],
    sharpness: Sequence[str],
    lrs: Sequence[float],
    rhos: Sequence[float],
    *,
    trial_seeds: int = 1,
    levels: Sequence[str] = ("parameter",),
    **common: Any,
) -> Tuning:
    """Determines the trials of each arm: all combinations of learning rates and ρ.

    All arms have the same number of trials. Those without ρ have as many learning rates instead,
    between the given ones.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        lrs: The learning rates.
        rhos: The values of ρ for presets with a perturbation; the benchmark's if empty.
        trial_seeds: The number of seeds over which the score of a trial is averaged.
        levels: The levels at which task gradients are compared.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The plan.

    Raises:
        RunError: If a name is unknown, or a value missing or out of range.

    Example:
        >>> plan = plan_tuning("digits", ["ls"], ["erm", "gsam"], [1e-3, 4e-3], [0.05, 0.2])
        >>> {arm.name: list(map(str, arm.space.values())) for arm in plan.arms}
        {'ls/erm': ['0.001,0.00141,0.002,0.004'], 'ls/gsam': ['0.001,0.004', '0.05,0.2']}
    """
    if trial_seeds < 1:
        raise RunError(f"trial seeds must be at least 1; found {trial_seeds}.")
    shared = {"benchmark": benchmark, **common}
    made = benchmark_of(shared)
    kinds = choose_arms(shared, made.tasks, methods, sharpness, levels)
    for lr in lrs:
        configured(**shared, lr=lr)  # reports invalid values
    arms = tuple(Arm(*kind, {}, shared) for kind in kinds)
    lists = {"lr": lrs, "rho": rhos or made.defaults.rho_grid}
    tuning = _with_lists(Tuning(arms, {}, trial_seeds, made.tasks), lists)
    _ = tuning.all_cells  # reports other invalid values
    return tuning


def tune(
    tuning: Tuning,
    out: Path | str,
    *,
    jobs: int = 1,
    watch: Callable[[Event], None] | None = None,
) -> list[Best]:
    """Trains the trials that are not finished, and chooses the best of each arm.

    The score of a trial is its mean validation score over seeds that the comparison does not use.
    Test data is not used. Trials that failed or diverged are counted.

    Args:
        tuning: The trials, from `plan_tuning`.
        out: The directory of the comparison.
        jobs: The number of processes.
        watch: Called when a run progresses or ends.

    Returns:
        The best trial of each arm that has one, for each kind of weights.

    Raises:
        RunError: If a run's directory holds another configuration.
    """
    out = Path(out)
    failures = run_cells(tuning.all_cells, out, jobs=jobs, watch=watch)
    spaces = {
        arm.name: {name: str(values) for name, values in arm.space.items()} for arm in tuning.arms
    }
    write_json(out / "sweep.json", spaces)
    best: list[Best] = []
    rows: list[Mapping[str, Any]] = []
    for arm in tuning.arms:
        trials = tuning.cells(arm)
        params = dict(zip(trials, _settings(arm), strict=True))
        scores = {trial: s for trial, cells in trials.items() if (s := _score(cells, out))}
        for weights in next(iter(scores.values()), ()):
            top = max(scores, key=lambda trial: scores[trial][weights])
            counts = len(trials), len(trials) - len(scores)
            best.append(Best(arm, weights, top, scores[top][weights], params[top], *counts))
        for trial, cells in trials.items():
            found = scores.get(trial, {})
            state = {"trial": trial, "state": "COMPLETE" if found else "FAILED"}
            why = next((failures[cell.path] for cell in cells if cell.path in failures), None)
            values = {"score": found.get("raw"), "score+ema": found.get("ema"), "failure": why}
            rows.append({**params[trial], **state, **values})
    write_search(out, best, _SETTINGS, rows)
    return best


def extended(tuning: Tuning, best: Sequence[Best]) -> Tuning | None:
    """Adds a value beyond each end of a list that is the best for an arm; None if there is none.

    The lists are the same for all arms, so that all keep the same number of trials.

    Args:
        tuning: The trials.
        best: Their best, from `tune`.

    Returns:
        The plan with longer lists.
    """
    lists = {}
    for name, values in tuning.lists.items():
        at = {one.params[name] for one in best if name in one.edges}
        ends = (values[:2], values[:-3:-1])  # each with the value beside it
        new = [pair[0] ** 2 / pair[1] for pair in ends if pair[0] in at and all(pair)]
        lists[name] = tuple(sorted({*values, *map(_short, new)}))
    return None if lists == tuning.lists else _with_lists(tuning, lists)


def _with_lists(tuning: Tuning, lists: Mapping[str, Sequence[float]]) -> Tuning:
    """Sets the lists of all arms."""
    ordered = {name: tuple(sorted(set(values))) for name, values in lists.items()}
    radii = any(applies("rho", arm.method, arm.sharpness) for arm in tuning.arms)
    trials = len(ordered["lr"]) * (len(ordered["rho"]) if radii else 1)
    arms = []
    for arm in tuning.arms:
        if applies("rho", arm.method, arm.sharpness):
            space = {name: Choices(values) for name, values in ordered.items()}
        else:
            space = {"lr": Choices(refined(ordered["lr"], trials))}
        arms.append(replace(arm, space=space))
    return replace(tuning, arms=tuple(arms), lists=ordered)


def refined(values: Sequence[float], number: int) -> tuple[float, ...]:
    """Inserts geometric means into the widest gaps of a list until it has a number of values.

    Args:
        values: The list, in increasing order.
        number: The number of values.

    Returns:
        The longer list.

    Example:
        >>> refined([0.001, 0.004], 4)
        (0.001, 0.00141, 0.002, 0.004)
    """
    found = list(values)
    while len(found) > 1 and len(found) < number:
        gaps = [math.log(high / low) for low, high in pairwise(found)]
        i = gaps.index(max(gaps))
        found.insert(i + 1, _short(math.sqrt(found[i] * found[i + 1])))
    return tuple(found)


def _settings(arm: Arm) -> list[dict[str, Any]]:
    """The combinations of the values of an arm's lists."""
    values = [choices.ends for choices in arm.space.values()]
    return [dict(zip(arm.space, chosen, strict=True)) for chosen in product(*values)]


def _score(cells: Sequence[Cell], out: Path) -> dict[str, float]:
    """The mean validation scores of a trial by its weights; empty if a run is missing."""
    found = [RunDirectory(out / cell.path).results() for cell in cells]
    scores = [scores_of(results) for results in found if results is not None]
    if len(scores) < len(found):
        return {}
    return {name: statistics.fmean(score[name] for score in scores) for name in scores[0]}


def _short(value: float) -> float:
    """Rounds to three significant digits, as values are named in directories."""
    return float(f"{value:.3g}")
