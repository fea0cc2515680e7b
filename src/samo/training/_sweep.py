"""Hyperparameter search for each method and preset, on validation data, with equal budgets."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import write_json
from ..records.directory import RunDirectory
from ._chosen import Best, scores_of, tuning_seeds, write_search
from ._plan import Cell
from ._space import Arm
from ._studies import Claim, Studies
from ._sweep_plan import SweepPlan
from ._workers import Event, Source, Workers


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep so far.

    Attributes:
        best: The best trial of each arm that has one, for each kind of weights.
        going_on: The number of trials that other processes are still running.
        failures: The reason for each diverged or failed trial, by its path.
    """

    best: tuple[Best, ...]
    going_on: int
    failures: Mapping[str, str]


def sweep(
    plan: SweepPlan,
    out: Path | str,
    *,
    storage: str | None = None,
    jobs: int = 1,
    seed: int = 0,
    watch: Callable[[Event], None] | None = None,
) -> SweepResult:
    """Searches, or continues a search that was interrupted or that other processes share.

    Trials are drawn by Optuna's TPE. Each is one run per seed, below `out`, with seeds that the
    comparison does not use; its score is the mean validation score of the reported epochs. With
    averaged weights, each kind of weights has its own score and best trial, and the draws follow
    the better score. Test data is not used. Any number of processes may work
    on the same sweep; if one dies, another one takes over its trial.

    Args:
        plan: The search, from `plan_sweep`.
        out: The sweep's directory.
        storage: The storage of the trials: a file or an RDB URL such as ``"postgresql://.."``, in
            which the sweep has the name of its directory; a file in the directory if omitted.
        jobs: The number of processes. With more than one, later draws depend on which trials
            finish first.
        seed: The seed of the search.
        watch: Called when a run progresses or ends; first for the finished ones.

    Returns:
        The best trials, the number of trials in other processes, and failures.

    Raises:
        RunError: If the storage cannot be used or holds another sweep.
    """
    out = Path(out)
    studies = Studies(plan, out, storage, seed)
    write_json(out / "sweep.json", {arm.name: plan.definition(arm) for arm in plan.arms})
    search = _Search(studies, plan, out)
    if watch:
        for event in search.finished():
            watch(event)
    with closing(Workers(out).run([search.source() for _ in range(jobs)])) as events:
        for event in events:
            search.beat(event.cell)
            if watch:
                watch(event)
    result = _result(studies, plan)
    _write(studies, plan, result, out)
    return result


class _Search:
    """The trials that this process runs."""

    def __init__(self, studies: Studies, plan: SweepPlan, out: Path) -> None:
        self._studies = studies
        self._plan = plan
        self._out = out
        self._claims: dict[str, Claim] = {}

    def source(self) -> Source:
        """Claims trials, yields their runs, and ends them."""
        while (claim := self._studies.claim()) is not None:
            self._claims[claim.path] = claim
            try:
                yield from self._trial(claim)
            finally:
                claim.lock.release()

    def finished(self) -> Iterator[Event]:
        """Yields the runs of finished trials."""
        for arm in self._plan.arms:
            for slot, trial in self._studies.slots(arm).items():
                if trial.state.name in {"COMPLETE", "PRUNED"}:
                    for cell in self._cells(arm, slot, trial.params):
                        failure = trial.user_attrs.get("failure")
                        yield Event(cell, ended=True, failure=failure)

    def beat(self, cell: Cell) -> None:
        """Records a heartbeat of a run's trial."""
        claim = self._claims.get(Path(cell.path).parent.as_posix())
        if claim is not None:
            self._studies.beat(claim)

    def _cells(self, arm: Arm, slot: int, params: Mapping[str, Any]) -> list[Cell]:
        seeds = tuning_seeds(self._plan.trial_seeds)
        return [arm.cell(arm.trial(slot), params, seed) for seed in seeds]

    def _trial(self, claim: Claim) -> Source:
        scores = []
        for cell in self._cells(claim.arm, claim.slot, claim.trial.params):
            self._repeat(claim, cell)
            event = yield cell
            results = RunDirectory(self._out / cell.path).results()
            if results is None:
                failure = event.failure or "no results were written"
                self._studies.finish(claim, None, failure, event.diverged)
                return
            scores.append(scores_of(results))
        means = {name: statistics.fmean(found[name] for found in scores) for name in scores[0]}
        claim.note("scores", means)
        self._studies.finish(claim, max(means.values()), None, diverged=False)

    def _repeat(self, claim: Claim, cell: Cell) -> None:
        """Copies the results of an earlier trial with the same settings, if there is one."""
        there = self._out / cell.path
        for slot, trial in self._studies.slots(claim.arm).items():
            here = self._out / claim.arm.trial(slot) / there.name
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
        scores = {slot: t.user_attrs["scores"] for slot, t in slots.items() if t.value is not None}
        failed = {slot: t.user_attrs.get("failure") for slot, t in slots.items()}
        failed = {slot: why for slot, why in failed.items() if slot not in scores and why}
        failures.update({arm.trial(slot): str(why) for slot, why in failed.items()})
        for weights in next(iter(scores.values()), ()):
            slot = min(scores, key=lambda s: (-scores[s][weights], s))
            score, params = scores[slot][weights], slots[slot].params
            counts = len(slots), len(failed)
            best.append(Best(arm, weights, arm.trial(slot), score, params, *counts))
    return SweepResult(tuple(best), studies.going_on(), failures)


def _write(studies: Studies, plan: SweepPlan, result: SweepResult, out: Path) -> None:
    """Writes the best trials and all trials."""
    settings = list(dict.fromkeys(name for arm in plan.arms for name in arm.space))
    trials = []
    for arm in plan.arms:
        for slot, trial in sorted(studies.slots(arm).items()):
            scores = trial.user_attrs.get("scores", {}) if trial.value is not None else {}
            trials.append(
                {
                    **trial.params,
                    "trial": arm.trial(slot),
                    "state": "DIVERGED" if trial.state.name == "PRUNED" else trial.state.name,
                    "score": scores.get("raw"),
                    "score+ema": scores.get("ema"),
                    "failure": trial.user_attrs.get("failure"),
                }
            )
    write_search(out, result.best, settings, trials)
