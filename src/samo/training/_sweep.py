"""A sweep: the settings of each method and preset, chosen on validation data by equal budgets."""

from __future__ import annotations

import csv
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import aggregation, benchmarks
from ._errors import RunError
from ._files import RunDirectory, write_atomically, write_json
from ._plan import Cell, baselines
from ._sharpness import complete
from ._space import Arm, applies, full_name, parse
from ._studies import Claim, Studies, trial_path
from ._train import reported
from ._workers import Event, Source, Workers

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


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

    @property
    def runs(self) -> int:
        """How many runs that makes."""
        return sum(self.budget(arm) for arm in self.arms) * self.trial_seeds


@dataclass(frozen=True)
class Best:
    """The best trial of an arm.

    Attributes:
        arm: The method and preset.
        slot: Which of its trials it is, from 0.
        score: Its score on validation data.
        params: What was chosen.
        trials: How many trials the arm has had.
        failed: How many of them diverged or failed.
    """

    arm: Arm
    slot: int
    score: float
    params: Mapping[str, Any]
    trials: int
    failed: int


@dataclass(frozen=True)
class SweepResult:
    """What has come out so far.

    Attributes:
        best: The best trial of each arm that has one.
        going_on: How many trials other processes are still at work on.
        failures: Why trials diverged or failed, by their path.
    """

    best: tuple[Best, ...]
    going_on: int
    failures: Mapping[str, str]


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


_PARTICULAR = ("rho", "sharpness_options.", "method_options.")


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


def sweep(
    plan: SweepPlan,
    out: Path | str,
    *,
    storage: str | None = None,
    jobs: int = 1,
    seed: int = 0,
    watch: Callable[[Event], None] | None = None,
) -> SweepResult:
    """Searches, or goes on with a search that was interrupted or that other processes are at.

    Trials are drawn by Optuna's TPE. Each is one run a seed, below `out`; its score is that of the
    reported epoch on validation data, test data plays no part. Any number of processes may work on
    the same sweep; what one of them was at when it died, another one goes on with.

    Args:
        plan: What to search, from `plan_sweep`.
        out: The sweep's directory.
        storage: Where the trials are kept: a file or an RDB URL, for instance
            ``"postgresql://.."``. In the directory if left out. The sweep goes by the directory's
            name there.
        jobs: How many processes to use. With more than one, later draws depend on which trials
            are done first.
        seed: The seed of the search.
        watch: Is told what becomes of the runs, finished ones first.

    Returns:
        The best trials, those that others are at work on, and failures.

    Raises:
        RunError: If the storage cannot be used or holds another sweep.
    """
    out = Path(out)
    arms = [(arm, _definition(arm, plan)) for arm in plan.arms]
    studies = Studies(arms, out, storage, plan.trials, seed)
    write_json(out / "sweep.json", {arm.name: definition for arm, definition in arms})
    search = _Search(studies, plan, out)
    if watch:
        for event in search.finished():
            watch(event)
    sources = [search.source() for _ in range(jobs)]
    with closing(Workers(out).run(sources)) as events:
        for event in events:
            search.beat(event.cell)
            if watch:
                watch(event)
    result = _result(studies, plan)
    _write(studies, plan, result, out)
    return result


def _definition(arm: Arm, plan: SweepPlan) -> dict[str, Any]:
    config = arm.config({}, 0).model_dump(mode="json")
    space = {name: str(range_) for name, range_ in arm.space.items()}
    return {**config, "space": space, "trial_seeds": plan.trial_seeds}


class _Search:
    """What the processes are given to train."""

    def __init__(self, studies: Studies, plan: SweepPlan, out: Path) -> None:
        self._studies = studies
        self._plan = plan
        self._out = out
        self._claims: dict[str, Claim] = {}

    def source(self) -> Source:
        """Claims trials, gives their runs, and tells how they ended."""
        while (claim := self._studies.claim()) is not None:
            self._claims[claim.path] = claim
            try:
                yield from self._trial(claim)
            finally:
                claim.lock.release()

    def finished(self) -> Iterator[Event]:
        """The runs of the trials that are over."""
        for arm in self._plan.arms:
            for slot, trial in self._studies.slots(arm).items():
                if trial.state.name in {"COMPLETE", "PRUNED"}:
                    for cell in self._cells(arm, slot, trial.params):
                        failure = trial.user_attrs.get("failure")
                        yield Event(cell, ended=True, failure=failure)

    def _cells(self, arm: Arm, slot: int, params: Mapping[str, Any]) -> list[Cell]:
        return [
            Cell(f"{trial_path(arm, slot)}/seed-{seed}", arm.config(params, seed))
            for seed in range(self._plan.trial_seeds)
        ]

    def beat(self, cell: Cell) -> None:
        """Shows that a run is alive."""
        claim = self._claims.get(Path(cell.path).parent.as_posix())
        if claim is not None:
            self._studies.beat(claim)

    def _trial(self, claim: Claim) -> Source:
        scores = []
        for cell in self._cells(claim.arm, claim.slot, claim.trial.params):
            self._repeat(claim, cell)
            event = yield cell
            results = RunDirectory(self._out / cell.path).results()
            if results is None:
                failure = event.failure or "it left no results"
                self._studies.finish(claim, None, failure, event.diverged)
                return
            scores.append(reported(results)["score"])
        self._studies.finish(claim, statistics.fmean(scores), None, diverged=False)

    def _repeat(self, claim: Claim, cell: Cell) -> None:
        """Copies the results of an earlier trial with the same settings: they are the same."""
        there = self._out / cell.path
        for slot, trial in self._studies.slots(claim.arm).items():
            here = self._out / trial_path(claim.arm, slot) / there.name
            same = slot != claim.slot and trial.params == claim.trial.params
            if same and not there.exists() and (here / "results.json").exists():
                there.mkdir(parents=True)
                for name in ("config.json", "results.json"):
                    shutil.copyfile(here / name, there / name)


def _result(studies: Studies, plan: SweepPlan) -> SweepResult:
    best = []
    failures = {}
    for arm in plan.arms:
        slots = studies.slots(arm)
        scores = {slot: t.value for slot, t in slots.items() if t.value is not None}
        failed = {slot: t.user_attrs.get("failure") for slot, t in slots.items()}
        failed = {slot: why for slot, why in failed.items() if slot not in scores and why}
        failures.update({trial_path(arm, slot): str(why) for slot, why in failed.items()})
        if scores:
            slot = min(scores, key=lambda s: (-scores[s], s))
            params = slots[slot].params
            best.append(Best(arm, slot, scores[slot], params, len(slots), len(failed)))
    return SweepResult(tuple(best), studies.going_on(), failures)


def _write(studies: Studies, plan: SweepPlan, result: SweepResult, out: Path) -> None:
    """Writes what was chosen (``best.json``) and all trials (``trials.csv``)."""
    chosen = {
        best.arm.name: {
            "trial": trial_path(best.arm, best.slot),
            "trials": best.trials,
            "score": best.score,
            "params": dict(best.params),
        }
        for best in result.best
    }
    write_json(out / "best.json", chosen)
    names = list(dict.fromkeys(name for arm in plan.arms for name in arm.space))
    lines: list[Sequence[object]] = [["trial", "state", "score", *names, "failure"]]
    for arm in plan.arms:
        for slot, trial in sorted(studies.slots(arm).items()):
            lines.append([trial_path(arm, slot), *_words(trial, names)])

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)

    write_atomically(out / "trials.csv", write)


def _words(trial: FrozenTrial, names: Sequence[str]) -> list[object]:
    failure = trial.user_attrs.get("failure")
    state = "DIVERGED" if trial.state.name == "PRUNED" else trial.state.name
    return [state, trial.value, *(trial.params.get(name) for name in names), failure]


def finals(plan: SweepPlan, best: Sequence[Best], seeds: int, *, stl: bool = True) -> list[Cell]:
    """Lists the runs that hold the chosen settings against each other, over several seeds.

    Args:
        plan: What was searched.
        best: The best trial of each arm.
        seeds: How many seeds, from 0. Those that the trial has had are not made again.
        stl: Whether to train single-task baselines, with the settings that all arms share and that
            are not chosen.

    Returns:
        The runs, for `compare`.

    Raises:
        RunError: If there are no seeds.
    """
    if seeds < 1:
        raise RunError(f"seeds must be at least 1; found {seeds}.")
    common = plan.arms[0].common
    single = [cell for seed in range(seeds) for cell in baselines(common, plan.tasks, seed)]
    return (single if stl else []) + [
        Cell(f"{trial_path(b.arm, b.slot)}/seed-{seed}", b.arm.config(b.params, seed))
        for b in best
        for seed in range(seeds)
    ]
