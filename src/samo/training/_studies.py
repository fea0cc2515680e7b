"""Trials of a sweep, in a storage that several processes and machines share."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from ..records import RunError, differences
from ._space import Arm
from ._sweep_plan import SweepPlan

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

# A process in another directory counts as dead after STALE seconds without a heartbeat.
STALE = 900.0
BEAT = 60.0


@dataclass(frozen=True)
class Claim:
    """A trial that this process runs.

    Attributes:
        arm: The method and preset.
        slot: The number of the arm's trial, from 0: the same for all attempts at it.
        trial: Optuna's trial: this attempt.
        lock: Held while it runs.
    """

    arm: Arm
    slot: int
    trial: Trial
    lock: FileLock

    @property
    def path(self) -> str:
        """Its directory, relative to the sweep's."""
        return self.arm.trial(self.slot)

    def note(self, name: str, value: Any) -> None:
        """Stores an attribute of the attempt, unless another process has closed the attempt."""
        with suppress(RuntimeError):
            self.trial.set_user_attr(name, value)


class Studies:
    """An Optuna study for each arm.

    An arm has as many *slots* as its budget. A slot is claimed by asking for a trial; the order of
    the trials' numbers, which the storage assigns, decides which trial has which slot, so no
    process can exceed the budget. A trial whose process died is closed as failed, and a new attempt
    at the same slot with the same values is queued.

    Args:
        plan: The search; processes that share a storage must have the same.
        out: The sweep's directory.
        storage: A file or an RDB URL; None for a file in the directory.
        seed: The seed of the search.

    Raises:
        RunError: If the storage cannot be used, or holds another sweep of this name.
    """

    def __init__(self, plan: SweepPlan, out: Path, storage: str | None, seed: int) -> None:
        self._plan = plan
        self._out = out
        self._seed = seed
        self._failed: set[tuple[str, int]] = set()
        # In its own directory, a sweep has the same name after the directory is renamed.
        prefix = "" if storage is None else f"{out.absolute().name}/"
        with _usable(storage):
            shared = _storage(storage, out)
            self._studies = {arm.name: _study(shared, prefix + arm.name) for arm in plan.arms}
        out.mkdir(parents=True, exist_ok=True)
        self._where = _identity(out)
        # All processes that use a storage in the directory work in the directory.
        self._elsewhere = None if storage is not None else self._where
        for arm in plan.arms:
            _agree(self._studies[arm.name], plan.definition(arm))

    def slots(self, arm: Arm) -> dict[int, FrozenTrial]:
        """Returns the latest attempt at each slot that was claimed."""
        return {slot: t for slot, t in self._attempts(arm) if slot < self._plan.budget(arm)}

    def claim(self) -> Claim | None:
        """Claims a trial of the arm that has used the smallest share of its budget, or None."""
        arms, budget = self._plan.arms, self._plan.budget
        with FileLock(self._out / ".claim.lock"):
            for arm in arms:
                self._revive(arm)
            for arm in sorted(arms, key=lambda arm: len(self.slots(arm)) / budget(arm)):
                if claim := self._ask(arm):
                    return claim
        return None

    def going_on(self) -> int:
        """Counts unfinished trials; once none can be claimed, other processes are running these."""
        latest = [trial for arm in self._plan.arms for trial in self.slots(arm).values()]
        return sum(not trial.state.is_finished() for trial in latest)

    def beat(self, claim: Claim) -> None:
        """Records a heartbeat of a running trial for other machines; call it regularly."""
        now = time.time()
        if now >= claim.trial.user_attrs.get("beat", 0.0) + BEAT:
            claim.note("beat", now)

    def finish(
        self, claim: Claim, score: float | None, failure: str | None, diverged: bool
    ) -> None:
        """Ends a trial, with its score or the reason of its failure.

        A diverged trial is not repeated, and the search learns from it (state PRUNED). A trial that
        failed for another reason is tried again by the next call of `sweep`.
        """
        from optuna.trial import TrialState

        state = TrialState.COMPLETE
        if score is None:
            claim.note("failure", failure)
            self._failed.add((claim.arm.name, claim.slot))
            state = TrialState.PRUNED if diverged else TrialState.FAIL
        # Has no effect if another process has closed this attempt as dead.
        study = self._studies[claim.arm.name]
        study.tell(claim.trial, score, state=state, skip_if_finished=True)

    def _ask(self, arm: Arm) -> Claim | None:
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        study = self._studies[arm.name]
        trials = _trials(study)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        following = sum("slot" not in trial.user_attrs for trial in trials)
        if not waiting and following >= self._plan.budget(arm):
            return None
        # Seeded by slot, so an interrupted search continues with the same draws; and equally for
        # all arms, so those with the same settings start from the same values.
        seed = np.random.SeedSequence([self._seed, following]).generate_state(1)[0]
        study.sampler = TPESampler(seed=int(seed))
        trial = study.ask({name: r.distribution() for name, r in arm.space.items()})
        (slot,) = [s for s, t in self._attempts(arm) if t.number == trial.number]
        try:
            if slot >= self._plan.budget(arm):  # another process was faster
                raise Timeout(arm.trial(slot))
            claim = Claim(arm, slot, trial, self._locked(arm, slot))
        except Timeout:
            study.tell(trial, state=TrialState.FAIL)
            return None
        claim.note("where", self._where)
        self.beat(claim)
        return claim

    def _revive(self, arm: Arm) -> None:
        """Queues slots again if their process died or they failed in an earlier call."""
        from optuna.trial import TrialState

        study = self._studies[arm.name]
        for slot, trial in self.slots(arm).items():
            if trial.state == TrialState.RUNNING and self._dead(arm, slot, trial):
                try:
                    study.tell(trial.number, state=TrialState.FAIL)
                except ValueError:  # it has ended, or another process has closed it
                    continue
            elif trial.state != TrialState.FAIL or (arm.name, slot) in self._failed:
                continue
            study.enqueue_trial(trial.params, user_attrs={"slot": slot})

    def _dead(self, arm: Arm, slot: int, trial: FrozenTrial) -> bool:
        """Whether no process runs a trial any more."""
        if trial.user_attrs.get("where", self._elsewhere) != self._where:
            begun = trial.datetime_start
            heard = trial.user_attrs.get("beat", begun.timestamp() if begun else 0.0)
            return time.time() > float(heard) + STALE
        directory = self._out / arm.trial(slot)
        # Check the run's own lock too: a worker may briefly outlive its parent.
        return not any(_held(lock) for lock in [directory / ".lock", *directory.glob("*/.lock")])

    def _attempts(self, arm: Arm) -> list[tuple[int, FrozenTrial]]:
        """Lists all attempts, each with its slot, including those beyond the budget."""
        attempts = []
        originals = 0
        for trial in _trials(self._studies[arm.name]):
            attempts.append((trial.user_attrs.get("slot", originals), trial))
            originals += "slot" not in trial.user_attrs
        return attempts

    def _locked(self, arm: Arm, slot: int) -> FileLock:
        directory = self._out / arm.trial(slot)
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / ".lock", timeout=0)
        lock.acquire()
        return lock


def _agree(study: Study, definition: Mapping[str, Any]) -> None:
    """Checks that a study belongs to this sweep, and not to another one of the same name."""
    saved = study.user_attrs.get("definition")
    if saved is None:
        study.set_user_attr("definition", dict(definition))
    elif differing := differences(saved, definition):
        raise RunError(
            f"the storage holds another sweep under the name {study.study_name!r}: {differing}. "
            f"Choose another directory, or delete this one."
        )


def _trials(study: Study) -> list[FrozenTrial]:
    return sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)


def _held(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _identity(out: Path) -> str:
    """Returns an identifier of the directory, the same for all processes on all machines."""
    with FileLock(out / ".claim.lock"):
        file = out / ".id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex, encoding="utf-8")
        return file.read_text(encoding="utf-8")


def _storage(given: str | None, out: Path) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    logging.getLogger("optuna").setLevel(logging.WARNING)
    if given is not None and "://" in given:
        return RDBStorage(given)
    if given is None:
        out.mkdir(parents=True, exist_ok=True)
        given = str(out / "studies.log")
    return JournalStorage(JournalFileBackend(given))


def _study(storage: BaseStorage, name: str) -> Study:
    import optuna

    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )


@contextmanager
def _usable(storage: str | None) -> Iterator[None]:
    """Turns the errors of a storage, which depend on its kind, into a RunError of one line."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        where = "in the sweep's directory" if storage is None else repr(storage)
        raise RunError(f"the storage {where} cannot be used: {reason}") from error
