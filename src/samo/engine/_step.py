"""One step: evaluate, differentiate, ascend, aggregate, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from samo._errors import NonFiniteError
from samo.model import Trace
from samo.tensors import Layout

from ._ascent import Ascent, ascents
from ._batch import Batch, Losses
from ._finite import Guard, culprit
from ._natural import NaturalPoint
from ._representation import task_gradients
from ._setting import Setting
from ._task_gradients import AtParameters, Plan, TaskGradients
from ._update import Part, Update, combine, compare, known_weights, nothing_shared, tell
from ._write import overflow, trainable, write

Found = dict[str, list[tuple[Tensor, float]]]
"""The losses of micro-batches with their sizes, by task."""


class Step:
    """One step of an engine, in five stages, at the parameters or ahead of them (`ahead`).

    1. `_evaluate`: the losses of a closure at the natural point θ (`Batch`).
    2. `_differentiate`: their gradients there, g_0 and η_i, as far as the ascent needs them
       (`NaturalPoint`).
    3. `_ascend`: the losses and gradients at the perturbed points (`Ascent`, `TaskGradients`). The
       first three stages are repeated for each micro-batch, and make up `gather`.
    4. `aggregate`: one gradient of the tasks' gradients (`Update`).
    5. `write`: adds it to ``.grad``. Before, no state that the user can see has changed.

    Args:
        setting: The engine's setting.
        closures: The closures, one for each micro-batch.
        guard: The loss scale and the finiteness checks.
        sizes: The sizes of the micro-batches by task; 1 if None.

    Attributes:
        sizes: The sizes of this rank's batch by task.
        update: The update, once aggregated.
        written: The parameters whose ``.grad`` has been written.
        overflowed: Whether the gradients were not finite, with a grad scaler.
    """

    def __init__(
        self,
        setting: Setting,
        closures: Sequence[Losses],
        guard: Guard,
        sizes: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self._setting = setting
        self._closures = closures
        self._batch_sizes = sizes or [dict.fromkeys(setting.tasks, 1.0)] * len(closures)
        self._guard = guard
        self._losses: Found = {task: [] for task in setting.tasks}
        self._perturbed: Found = {task: [] for task in setting.tasks}
        self._weights: tuple[Tensor, list[Tensor | None]] | None = None
        self._parts: list[Part] = []
        self.sizes: dict[str, float] = {}
        self._gradients: TaskGradients | None = None
        self._natural: AtParameters | None = None
        self.update: Update | None = None
        self.written: list[Parameter] = []
        self.overflowed = False

    @property
    def losses(self) -> dict[str, Tensor]:
        """The natural losses: means over the micro-batches."""
        return _means(self._losses)

    @property
    def perturbed(self) -> dict[str, Tensor]:
        """The losses at the perturbed points: means over the micro-batches."""
        return _means(self._perturbed)

    @property
    def gradients(self) -> TaskGradients:
        """The task gradients, once gathered."""
        assert self._gradients is not None
        return self._gradients

    def begin(self) -> None:
        """Notes what is in use during a step, and what a step that fails must not have taught."""
        setting, journal = self._setting, self._setting.journal
        journal.note(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
        partition, streams = setting.partition, setting.world.streams
        journal.note(partial(vars(partition).update, dict(vars(partition))))
        journal.note(partial(streams.load_state_dict, streams.state_dict()))
        estimator = None if setting.ascending is None else setting.ascending.estimator
        if estimator is not None and estimator.stateful:
            journal.note(partial(estimator.load_state_dict, estimator.state_dict()))

    def gather(self, traces: ExitStack) -> None:
        """Computes and averages the task gradients; the last graph lives as long as ``traces``."""
        setting, closures = self._setting, self._closures
        replays = setting.ascending is not None and setting.ascending.moves
        if len(closures) > 1 and not setting.partition.knows(setting.tasks):
            for closure, sizes in zip(closures, self._batch_sizes, strict=True):
                # The partition must stay the same from one micro-batch to the next.
                with Trace(setting.traced, replays=False) as trace:
                    Batch(closure, sizes, setting, trace).rehearse()
        for number, (closure, sizes) in enumerate(zip(closures, self._batch_sizes, strict=True)):
            traces.close()
            trace = traces.enter_context(Trace(setting.traced, replays=replays))
            batch = Batch(closure, sizes, setting, trace)
            # Two matrices alternate, since the sum of the micro-batches before is in the other.
            self._blaming(batch, partial(self._gather, batch, str(number % 2)))
        self._blaming(batch, self._finish)

    def _gather(self, batch: Batch, use: str) -> None:
        """Computes the task gradients of a micro-batch."""
        self._evaluate(batch)
        point, natural = self._differentiate(batch, use)
        gradients = self._ascend(batch, point, use)
        self._add(batch, gradients, natural)

    def _evaluate(self, batch: Batch) -> None:
        """Runs the natural pass, and computes the weights of methods that need no gradients."""
        batch.evaluate(self._guard)
        for task in batch.losses:
            self.sizes[task] = self.sizes.get(task, 0.0) + batch.sizes[task]
        _record(self._losses, batch.agreed.means, batch.agreed.sizes)
        if len(self._closures) == 1 and self._setting.combiner.weighs_first:
            self._weights = known_weights(self._setting, self._guard, self.losses)

    def _differentiate(
        self, batch: Batch, use: str
    ) -> tuple[NaturalPoint | None, AtParameters | None]:
        """Computes the gradients at the natural point that the ascent needs.

        Returns:
            The natural point (None without a perturbation), and its task gradients if they are
            aggregated separately.
        """
        setting, guard = self._setting, self._guard
        perturbation = setting.ascending
        if perturbation is None or not perturbation.moves:
            return None, None
        point = NaturalPoint(setting, perturbation, batch, guard)
        kept = setting.flat_combiner is not None
        # If natural task gradients are computed anyway, g_0 is their mean. If they are not needed
        # afterwards, the perturbed gradients overwrite them in the same rows.
        if kept or (point.needs_rows and perturbation.alpha > 0 and self._weights is None):
            plan = self._plan(f"natural {use}" if kept else use, "natural gradient")
            first = AtParameters(setting, batch.agreed.shares, guard, plan)
            first.collect(batch.tasks, batch.losses)
            shares = batch.agreed.shares
            if setting.world.sync_perturbation:
                first.reduce()
                shares = dict.fromkeys(batch.tasks, 1.0)
            point.use_rows(first, shares)
        else:
            point.differentiate_mean()
        return point, first if kept else None

    def _ascend(self, batch: Batch, point: NaturalPoint | None, use: str) -> TaskGradients:
        """Computes the task gradients at the perturbed points."""
        setting, guard, shares = self._setting, self._guard, batch.agreed.shares
        if point is None:
            plan = self._plan(use, "natural gradient", divides=True)
            losses = batch.hand_over()
            gradients = task_gradients(setting, shares, guard, plan, losses)
            gradients.collect(batch.tasks, losses)
            return gradients
        remembers = point.estimator is not None and point.estimator.remembers
        plan = self._plan(use, "perturbed gradient", divides=True, remembers=remembers)
        formed: TaskGradients | None = None
        for ascent in ascents(point, batch.tasks):
            formed = ascent.displaced(partial(self._evaluate_at, ascent, batch, plan, formed))
            ascent.release()
        assert formed is not None
        return formed

    def _evaluate_at(
        self, ascent: Ascent, batch: Batch, plan: Plan, formed: TaskGradients | None
    ) -> TaskGradients:
        """Adds the gradients of a group of tasks at their perturbed point."""
        setting, guard, shares = self._setting, self._guard, batch.agreed.shares
        with torch.enable_grad():
            found = ascent.replay()
        means = setting.world.ranks.means(ascent.group, found, shares)
        for task, loss in means.items():
            guard.check([task], "perturbed loss", loss)
        _record(self._perturbed, means, batch.agreed.sizes)
        if formed is None:
            formed = task_gradients(setting, shares, guard, plan, found, ascent.displaced)
        collect = partial(formed.collect, ascent.group, found)
        # The task at fault in a sum can be determined only at the point where it fails.
        if len(ascent.group) > 1 and formed.rows is None:
            self._blaming(batch, collect)
        else:
            collect()
        return formed

    def _add(self, batch: Batch, gradients: TaskGradients, natural: AtParameters | None) -> None:
        """Adds the gradients of a micro-batch to those of the ones before."""
        for its, before in ((gradients, self._gradients), (natural, self._natural)):
            if len(self._closures) > 1 and isinstance(its, AtParameters):
                its.multiply_sizes(batch.agreed.sizes)
                if isinstance(before, AtParameters):
                    its.merge(before)
        self._gradients, self._natural = gradients, natural

    def _finish(self) -> None:
        """Sums over the ranks, averages over the micro-batches, and compares the gradients."""
        for gradients in (self._gradients, self._natural):
            if gradients is not None:
                gradients.reduce()
                if len(self._closures) > 1 and isinstance(gradients, AtParameters):
                    gradients.average()
        self._parts = compare(self._setting, self._guard, self.gradients, self._natural)

    def aggregate(self) -> None:
        """Combines the task gradients into one."""
        setting, guard, gradients = self._setting, self._guard, self.gradients
        of_method = tell(setting, guard, gradients, self.losses)
        if gradients.rows is not None and setting.combiner.weighs_first:
            # The means over all micro-batches are known only now.
            self._weights = known_weights(setting, guard, self.losses)
            if setting.combiner.weighs_own:
                gradients.multiply_own(self._weights[0])
        weights, of_weights = self._weights or (None, [])
        if self._parts:
            self.update = combine(setting, self._parts, gradients, weights)
        else:
            total = nothing_shared() if gradients.total is None else gradients.total
            self.update = Update(total, weights)
        self.update.of_method = of_method or of_weights
        if self._weights is None and self.update.weights is not None:
            guard.check(gradients.present, "weight", self.update.weights.sum())
        guard.verify()

    def amplify(self) -> None:
        """Multiplies the update by the scale of the grad scaler, if one is used."""
        guard, update = self._guard, self.update
        if guard.factor is None or update is None:
            return
        learnt = [Layout([g]).copy_of([g]) for g in update.of_method if g is not None]
        for vector in (update.shared, *self.gradients.own.values(), *learnt):
            for flat in guard.scale_(vector).flats:
                # The sum is zero or NaN; a norm may overflow although no element does.
                guard.check(self.gradients.present, "scaled gradient", flat.mul(0).sum())
        guard.verify()
        scaled = iter(learnt)
        update.of_method = [
            None if g is None else next(scaled).tensors[0] for g in update.of_method
        ]

    def write(self) -> None:
        """Adds the gradients to ``.grad``, and passes them to what remembers them."""
        update, gradients = self.update, self.gradients
        assert update is not None
        self.written = write(self._setting, self._guard, gradients, update)
        self._setting.combiner.learn(self.losses, self.perturbed, gradients.numbers)

    def overflow(self) -> None:
        """Undoes the step, and sets infinite gradients in place of those that are not finite."""
        setting = self._setting
        parameters = trainable(setting)  # as the step has found them
        setting.journal.undo()
        self.update, self.overflowed = None, True
        overflow(setting, parameters)

    def _plan(
        self, use: str, stage: str, *, divides: bool = False, remembers: bool = False
    ) -> Plan:
        """Plans how task gradients are stored; their columns may be divided among the ranks."""
        setting, combiner = self._setting, self._setting.combiner
        columns = weights = None
        if (
            divides
            and not remembers
            and combiner.gramian_only
            and setting.flat_combiner is None
            and len(self._closures) == 1
        ):  # only inner products and sums are computed from the rows
            columns = setting.world.placement.columns(setting.partition.shared)
        if self._weights is not None:
            numbers = self._weights[0]
            # On the CPU, Python numbers are faster than tensors of one element.
            its = numbers.tolist() if numbers.device.type == "cpu" else numbers
            weights = dict(zip(self.losses, its, strict=True))
        return Plan(
            use if columns is None else "columns",
            stage,
            weights=weights,
            weighs_own=weights is not None and combiner.weighs_own,
            remembers=remembers,
            columns=columns,
        )

    def _blaming(self, batch: Batch, compute: Callable[[], None]) -> None:
        """Names the task at fault if the gradient of a sum is not finite."""
        try:
            compute()
            self._guard.verify()
        except NonFiniteError as error:
            setting = self._setting
            loss_of = {t: partial(lambda t: batch.replay([t])[t], t) for t in batch.losses}
            parameters = [p for p in setting.traced.model.parameters() if p.requires_grad]
            placement = setting.world.placement
            raise culprit(error, loss_of, parameters, placement, self._guard) from None


def _record(found: Found, losses: Mapping[str, Tensor], sizes: Mapping[str, float]) -> None:
    """Records the losses of a micro-batch."""
    for task, loss in losses.items():
        found[task].append((loss, sizes[task]))


def _means(found: Found) -> dict[str, Tensor]:
    """Returns means over the micro-batches, weighted by their sizes, by task in order."""
    means = {}
    for task, its in found.items():
        if len(its) == 1:
            means[task] = its[0][0]
        elif its:
            total = sum(size for _, size in its)
            means[task] = torch.stack([loss * (size / total) for loss, size in its]).sum()
    return means
