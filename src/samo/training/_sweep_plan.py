"""What a sweep is to search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import aggregation, benchmarks
from ._errors import RunError
from ._sharpness import complete
from ._space import Arm, applies, full_name, parse

_PARTICULAR = ("rho", "sharpness_options.", "method_options.")  # what not all arms have


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to search.

    Attributes:
        arms: The methods and presets, each with what is to be chosen for it.
        trials: The budget of each: how many settings to try.
        trial_seeds: Over how many seeds the score of a trial is a mean.
        tasks: The benchmark's tasks.
    """

    arms: tuple[Arm, ...]
    trials: int
    trial_seeds: int
    tasks: tuple[str, ...]

    def budget(self, arm: Arm) -> int:
        """How many trials an arm gets: one is enough where there is nothing to choose."""
        return self.trials if arm.free else 1

    def definition(self, arm: Arm) -> dict[str, Any]:
        """What the search of an arm is: processes that share it must agree on that."""
        config = arm.config({}, 0).model_dump(mode="json")
        space = {name: str(range_) for name, range_ in arm.space.items()}
        return {**config, "space": space, "trial_seeds": self.trial_seeds}

    @property
    def runs(self) -> int:
        """How many runs that makes."""
        return sum(self.budget(arm) for arm in self.arms) * self.trial_seeds


def plan_sweep(
    benchmark: str,
    methods: Sequence[str],
    sharpness: Sequence[str],
    space: Mapping[str, str],
    *,
    trials: int,
    trial_seeds: int = 1,
    **common: Any,
) -> SweepPlan:
    """Works out what each method with each preset has to choose from.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        space: By name (``rho``, ``alpha``, ``lr``, ``sharpness_options.mu`` ..) a range ``a..b`` or
            a list ``a,b,c``. What an arm does not have is left out of its search.
        trials: The budget of each arm.
        trial_seeds: Over how many seeds the score of a trial is a mean.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The plan.

    Raises:
        RunError: If something is unknown, missing, or out of its range.

    Example:
        >>> space = {"rho": "1e-3..1e-1", "lr": "1e-4..1e-2"}
        >>> plan = plan_sweep("digits", ["ls"], ["erm", "gsam"], space, trials=20)
        >>> {arm.name: list(arm.space) for arm in plan.arms}
        {'ls/erm': ['lr'], 'ls/gsam': ['lr', 'rho']}
    """
    for name, value in (("trials", trials), ("trial seeds", trial_seeds)):
        if value < 1:
            raise RunError(f"{name} must be at least 1; found {value}.")
    ranges = {full_name(name): parse(name, text) for name, text in space.items()}
    # What all arms have comes first: then those begin at the same values (see `Studies`).
    ranges = dict(sorted(ranges.items(), key=lambda item: item[0].startswith(_PARTICULAR)))
    shared = {"benchmark": benchmark, **common}
    try:
        methods = list(dict.fromkeys(aggregation.describe(name).name for name in methods))
        for name in sharpness:
            complete(name, {})
    except ValueError as error:
        raise RunError(str(error)) from error
    arms = [
        Arm(m, s, {n: r for n, r in ranges.items() if applies(n, m, s)}, shared)
        for m in methods
        for s in dict.fromkeys(sharpness)
    ]
    if not arms:
        raise RunError("name at least one method and one sharpness preset.")
    for name in ranges:
        if not any(name in arm.space for arm in arms):
            raise RunError(f"{name} is a setting of none of {', '.join(arm.name for arm in arms)}.")
    if not any(arm.free for arm in arms):
        raise RunError("there is nothing to choose: give a range, such as --rho 1e-3..1e-1.")
    return SweepPlan(tuple(arms), trials, trial_seeds, _try_ends(arms))


def _try_ends(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Makes what lies at the ends of all ranges, so that errors come first; gives the tasks."""
    common = arms[0].common
    try:
        made = benchmarks.create(common["benchmark"], **(common.get("benchmark_options") or {}))
        for arm in arms:
            first = {name: r.ends[0] for name, r in arm.space.items()}
            ends = [{**first, name: end} for name, r in arm.space.items() for end in r.ends]
            for params in ends or [first]:
                options: Any = arm.config(params, 0).method_options
                aggregation.create(arm.method, len(made.tasks), **options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RunError(str(error)) from error
    return made.tasks
