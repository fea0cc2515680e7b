"""Plan of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records import RunError
from ._plan import benchmark_of, check_engine, choose_arms
from ._space import Arm, applies, full_name, parse

_PARTICULAR = ("rho", "sharpness_options.", "method_options.")  # settings that some arms lack


@dataclass(frozen=True)
class SweepPlan:
    """Plan of a sweep.

    Attributes:
        arms: The methods and presets, each with its search space.
        trials: The budget of each arm: the number of settings to try.
        trial_seeds: The number of seeds over which the score of a trial is averaged.
        tasks: The benchmark's tasks.
    """

    arms: tuple[Arm, ...]
    trials: int
    trial_seeds: int
    tasks: tuple[str, ...]

    def budget(self, arm: Arm) -> int:
        """The number of trials of an arm: one if it has nothing to search."""
        return self.trials if arm.free else 1

    def definition(self, arm: Arm) -> dict[str, Any]:
        """Returns the definition of an arm's search; processes that share it must have the same."""
        space = {name: str(range_) for name, range_ in arm.space.items()}
        return {**arm.config({}, 0).plain(), "space": space, "trial_seeds": self.trial_seeds}

    @property
    def runs(self) -> int:
        """The number of runs."""
        return sum(self.budget(arm) for arm in self.arms) * self.trial_seeds


def plan_sweep(
    benchmark: str,
    methods: Sequence[str],
    sharpness: Sequence[str],
    space: Mapping[str, str],
    *,
    trials: int,
    trial_seeds: int = 1,
    levels: Sequence[str] = ("parameter",),
    **common: Any,
) -> SweepPlan:
    """Determines the search space of each method with each preset at each level.

    A method and a preset that cannot compare task gradients at a level are at the parameters
    instead, once.

    Args:
        benchmark: The benchmark.
        methods: The aggregation methods.
        sharpness: The sharpness presets.
        space: By name (``rho``, ``alpha``, ``lr``, ``sharpness_options.mu`` ..) a range ``a..b`` or
            a list ``a,b,c``. Settings that an arm does not have are left out of its search.
        trials: The budget of each arm.
        trial_seeds: The number of seeds over which the score of a trial is averaged.
        levels: The levels at which task gradients are compared.
        **common: The other fields of `RunConfig`, the same for all runs.

    Returns:
        The plan.

    Raises:
        RunError: If a name is unknown, a value missing or out of range, or no method and preset can
            be at a level.

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
    # Settings that all arms have come first, so that their first values are equal (see `Studies`).
    ranges = dict(sorted(ranges.items(), key=lambda item: item[0].startswith(_PARTICULAR)))
    shared = {"benchmark": benchmark, **common}
    tasks = benchmark_of(shared).tasks
    arms = [
        Arm(m, s, level, {n: r for n, r in ranges.items() if applies(n, m, s)}, shared)
        for m, s, level in choose_arms(shared, tasks, methods, sharpness, levels)
    ]
    for name in ranges:
        if not any(name in arm.space for arm in arms):
            raise RunError(f"none of {', '.join(arm.name for arm in arms)} has the setting {name}.")
    if not any(arm.free for arm in arms):
        raise RunError("there is nothing to search: give a range, such as --rho 1e-3..1e-1.")
    _try_ends(arms, tasks)
    return SweepPlan(tuple(arms), trials, trial_seeds, tasks)


def _try_ends(arms: Sequence[Arm], tasks: Sequence[str]) -> None:
    """Checks the engines at the ends of all ranges before the search."""
    for arm in arms:
        first = {name: r.ends[0] for name, r in arm.space.items()}
        ends = [{**first, name: end} for name, r in arm.space.items() for end in r.ends]
        for params in ends or [first]:
            check_engine(arm.config(params, 0), tasks)
