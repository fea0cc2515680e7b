"""One step, as a short sequence of stages: gather, aggregate, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from samo._errors import NonFiniteError
from samo.aggregation._combiner import WeightsOfGramian, WeightsOfLosses
from samo.distributed._ranks import Agreement
from samo.engine._ascent import ascent_of
from samo.engine._blame import culprit
from samo.engine._finite import Ledger
from samo.engine._result import Means
from samo.engine._rows import Scale, TaskGradients, accumulate
from samo.engine._setting import Setting
from samo.engine._update import Aggregation
from samo.model._closure import Losses, evaluated
from samo.model._trace import Trace
from samo.perturbations import Grouping, Remembering
from samo.tensors._dtensor import assembled
from samo.tensors._vector import Layout, Vector


class Step:
    """One step of an engine.

    Args:
        setting: What is the engine's.
        closures: The closures, one for each micro-batch.
        scale: The factor on losses before backward passes.
        sizes: The sizes of the micro-batches by task; 1 if left out.

    Attributes:
        losses: The natural losses.
        perturbed: The losses at the perturbed points.
        aggregation: What makes one gradient of them all, with the weights and the Gramian.
        sizes: The sizes of this rank's batch by task.
    """

    def __init__(
        self,
        setting: Setting,
        closures: Sequence[Losses],
        scale: Scale,
        sizes: Sequence[Mapping[str, float]] | None = None,
    ) -> None:
        self._setting = setting
        self._closures = closures
        self._batch_sizes = sizes or [dict.fromkeys(setting.tasks, 1.0)] * len(closures)
        self._scale = scale
        self._ledger = Ledger()
        self.losses = Means(setting.tasks)
        self.perturbed = Means(setting.tasks)
        self.aggregation = Aggregation(setting, scale, self._ledger, self.losses)
        self.sizes: dict[str, float] = {}
        self._mine: list[str] = []
        streams = setting.streams
        self._bring_back: list[Callable[[], None]]
        self._bring_back = [partial(streams.load_state_dict, streams.state_dict())]
        self._gradients: TaskGradients
        self._natural: TaskGradients | None = None
        self._update: Vector

    def gather(self) -> None:
        """Makes the task gradients: of each micro-batch, then averaged."""
        setting = self._setting
        if len(self._closures) > 1 and not setting.partition.knows(setting.tasks):
            self._discover()
        for number, closure in enumerate(self._closures):
            with setting.tracer.trace() as trace, self._blaming(closure, trace):
                gradients, natural = self._evaluate(closure, trace, number)
                if number > 0:
                    gradients.merge(self._gradients)
                    if natural is not None and self._natural is not None:
                        natural.merge(self._natural)
                self._gradients, self._natural = gradients, natural
                if number == len(self._closures) - 1:
                    self._finish()

    @property
    def gradients(self) -> TaskGradients:
        """The task gradients that `gather` has made."""
        return self._gradients

    def aggregate(self) -> None:
        """Makes one gradient of the tasks'."""
        self._update = self.aggregation.update(self._gradients)

    def amplify(self) -> None:
        """Multiplies what is to be written by the factor of a grad scaler, if there is one."""
        if self._scale.factor is None:
            return
        of_method = self.aggregation.method_gradients
        learnt = [Layout([g]).copy_of([g]) for g in of_method if g is not None]
        for vector in (self._update, *self._gradients.own.values(), *learnt):
            for flat in self._scale.apply_(vector).flats:
                # Zero, or not a number; a norm may overflow where no element does.
                self._ledger.note(self._gradients.present, "scaled gradient", flat.mul(0).sum())
        self._ledger.verify()
        scaled = iter(learnt)
        self.aggregation.method_gradients = [
            None if g is None else next(scaled).tensors[0] for g in of_method
        ]

    def write(self) -> None:
        """Adds the gradients to ``.grad``, and tells the estimator what it is to remember."""
        gradients, partition = self._gradients, self._setting.partition
        parts = [(partition.shared, self._update)]
        parts += [(partition.own[task], vector) for task, vector in gradients.own.items()]
        parameters = [parameter for part, _ in parts for parameter in part]
        found = [tensor for _, vector in parts for tensor in vector.tensors]
        accumulate(parameters, found, [id(p) in gradients.reached for p in parameters])
        if of_method := self.aggregation.method_gradients:
            learnt = self._setting.combiner.parameters
            found = [p if g is None else g for p, g in zip(learnt, of_method, strict=True)]
            accumulate(learnt, found, [g is not None for g in of_method])
        if self._setting.perturbation is not None:
            local = self._setting.perturbation.local
            if isinstance(local, Remembering):
                names = [partition.name(parameter) for parameter in partition.shared]
                for task, vector in gradients.remembered.items():
                    whole = map(assembled, vector.tensors, partition.shared)
                    local.remember(task, dict(zip(names, whole, strict=True)))

    def forget(self) -> None:
        """Brings what has learnt in the step, and the random numbers, back to its start."""
        for bring_back in reversed([*self._bring_back, *self.aggregation.bring_back]):
            bring_back()

    def _natural_pass(
        self, closure: Losses, trace: Trace, sizes: Mapping[str, float]
    ) -> tuple[Agreement, dict[str, Tensor]]:
        """Evaluates the natural losses, and agrees with the other ranks on what is there."""
        setting = self._setting
        ranks, placement, partition = setting.ranks, setting.placement, setting.partition
        ask = partial(evaluated, closure, setting.tasks, setting.tasks, may_leave_out=True)
        with torch.enable_grad():
            losses = trace.natural(ask)
        counted = {task: loss for task, loss in losses.items() if sizes[task] > 0}
        agreed = ranks.agree(losses, sizes, news=partition.is_news(counted, placement))
        if not agreed.means:
            raise ValueError(
                f"The losses closure was asked for {list(setting.tasks)} and returned "
                f"{list(losses)}. It may leave out tasks (or give them the batch_size 0) only if "
                f"it does so all through a step, and not all of them."
            )
        losses = placement.taking_part(losses, agreed)
        if agreed.news:
            partition.update(losses, ranks, placement)
        self._mine = list(losses)
        for task in losses:
            self.sizes[task] = self.sizes.get(task, 0.0) + sizes[task]
        for task, loss in agreed.means.items():
            self._ledger.note([task], "natural loss", loss)
        self.losses.add(agreed.means, agreed.sizes)
        return agreed, losses

    def _evaluate(
        self, closure: Losses, trace: Trace, number: int
    ) -> tuple[TaskGradients, TaskGradients | None]:
        """One micro-batch: the natural pass, the ascent, and the gradients at the points found."""
        setting, scale, ledger = self._setting, self._scale, self._ledger
        agreed, losses = self._natural_pass(closure, trace, self._batch_sizes[number])
        tasks, use = list(agreed.means), str(number % 2)
        if len(self._closures) == 1:
            self.aggregation.weigh()
        perturbation = setting.perturbation
        if perturbation is None or perturbation.rho == 0:
            gradients = self._task_gradients(agreed, use, "natural", divides=True)
            gradients.collect(tasks, losses)
            self._weigh_batch(agreed, gradients)
            return gradients, None

        def replay(tasks: Sequence[str]) -> dict[str, Tensor]:
            return self._replay(trace, closure, tasks, self._mine)

        ascent = ascent_of(setting, perturbation, agreed, losses, replay, scale, ledger)
        natural = None
        # Where the natural gradients are made, their mean is at hand; where they are not needed any
        # more then, they lie in the rows that the perturbed ones get.
        mean_of_them = (
            ascent.by_task and perturbation.alpha > 0 and self.aggregation.weights is None
        )
        if setting.flat_combiner is not None or mean_of_them:
            kept = setting.flat_combiner is not None
            first = self._task_gradients(agreed, f"natural {use}" if kept else use, "natural")
            first.collect(tasks, losses)
            shares = agreed.shares
            if setting.sync_perturbation:
                first.reduce()
                shares = dict.fromkeys(tasks, 1.0)
            ascent.from_gradients(first, shares)
            natural = first if kept else None
        else:
            ascent.from_losses()
        if isinstance(ascent.estimator, Grouping):
            known = ascent.estimator.state_dict()
            self._bring_back.append(partial(ascent.estimator.load_state_dict, known))
        remembers = isinstance(ascent.estimator, Remembering)
        gradients = self._task_gradients(
            agreed, use, "perturbed", divides=True, remembers=remembers
        )
        for group in ascent.groups(tasks):
            with ascent.displaced(group):
                with torch.enable_grad():
                    found = replay([task for task in group if task in losses])
                means = setting.ranks.means(group, found, agreed.shares)
                for task, loss in means.items():
                    ledger.note([task], "perturbed loss", loss)
                self.perturbed.add(means, agreed.sizes)
                # Who is to blame for a sum must be found out here, where it is not finite.
                in_sum = len(group) > 1 and gradients.rows is None
                with self._blaming(closure, trace) if in_sum else nullcontext():
                    gradients.collect(group, found)
        self._weigh_batch(agreed, gradients, natural)
        return gradients, natural

    def _weigh_batch(self, agreed: Agreement, *made: TaskGradients | None) -> None:
        """Prepares gradients for a mean over micro-batches."""
        for gradients in made if len(self._closures) > 1 else ():
            if gradients is not None:
                gradients.weigh(agreed.sizes)

    def _replay(
        self, trace: Trace, closure: Losses, tasks: Sequence[str], present: Sequence[str]
    ) -> dict[str, Tensor]:
        """The losses of some tasks at the parameters as they are."""
        if not tasks:
            return {}
        ask = partial(evaluated, closure, tasks=self._setting.tasks)
        if trace.separable:
            losses = trace.replay(ask, tasks)
            if trace.separable:
                return losses
            del losses  # and its graph, before the next is made
        losses = trace.replay(ask, present)
        return {task: losses[task] for task in tasks}

    def _task_gradients(
        self,
        agreed: Agreement,
        use: str,
        at: str,
        *,
        divides: bool = False,
        remembers: bool = False,
    ) -> TaskGradients:
        setting, weights = self._setting, None
        columns = None
        if (
            divides
            and not remembers
            and isinstance(setting.combiner, WeightsOfGramian)
            and setting.flat_combiner is None
            and len(self._closures) == 1
        ):  # nothing but inner products and sums is made of the rows
            columns = setting.placement.columns(setting.partition.shared)
        if self.aggregation.weights is not None:
            weights = dict(zip(self.losses.values(), self.aggregation.weights, strict=True))
        return TaskGradients(
            setting.partition,
            setting.placement,
            setting.tasks,
            agreed.shares,
            setting.workspace,
            use if columns is None else "columns",
            self._scale,
            self._ledger,
            f"{at} gradient",
            weights=weights,
            weighs_own=weights is not None and isinstance(setting.combiner, WeightsOfLosses),
            remembers=remembers,
            columns=columns,
        )

    def _finish(self) -> None:
        """Sums over the ranks, averages over the micro-batches, and prepares the aggregation."""
        for made in (self._gradients, self._natural):
            if made is not None:
                made.reduce()
                if len(self._closures) > 1:
                    made.average()
        self.aggregation.prepare(self._gradients, self._natural)

    def _discover(self) -> None:
        """Finds the partition before micro-batches are evaluated, so that it stays the same."""
        setting = self._setting
        for closure in self._closures:
            ask = partial(evaluated, closure, setting.tasks, setting.tasks, may_leave_out=True)
            with setting.tracer.trace() as trace, torch.enable_grad():
                losses = trace.rehearse(ask)
                setting.partition.update(losses, setting.ranks, setting.placement)

    @contextmanager
    def _blaming(self, closure: Losses, trace: Trace) -> Iterator[None]:
        """Names the task at fault where the gradient of a sum is not finite."""
        try:
            yield
            self._ledger.verify()
        except NonFiniteError as error:

            def loss_of(task: str) -> Tensor:
                return self._replay(trace, closure, [task], self._mine)[task]

            raise culprit(error, self._mine, loss_of, self._setting, self._scale) from None
