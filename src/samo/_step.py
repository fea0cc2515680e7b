"""One step, as a short sequence of stages: gather, aggregate, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ._ascent import ascent_of
from ._autocast import undisturbed
from ._blame import culprit
from ._closure import Losses, evaluated
from ._errors import NonFiniteError
from ._gradients import Scale, TaskGradients, accumulate
from ._ledger import Ledger
from ._local import Grouping, Remembering
from ._parts import assembled
from ._ranks import Agreement
from ._result import Means
from ._setting import Setting
from ._trace import Trace
from ._vector import Layout, Matrix, Vector, wide, widest
from .aggregation._combine import (
    Combiner,
    WeightsFirst,
    WeightsOfGramian,
    WeightsOfLosses,
    WholeMatrix,
)


@dataclass
class Part:
    """A sum that the update is made of.

    Attributes:
        combiner: What combines the rows.
        rows: Gradients of the present tasks.
        gramian: Their inner products, on the CPU in the end; None where they are not needed.
    """

    combiner: Combiner
    rows: Matrix
    gramian: Tensor | None = None


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
        weights: The tasks' weights, where there are any.
        gramian: The Gramian, where one was made.
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
        self.weights: Tensor | None = None
        self.gramian: Tensor | None = None
        self.sizes: dict[str, float] = {}
        self._mine: list[str] = []
        self._method_gradients: list[Tensor | None] = []
        streams = setting.streams
        self._bring_back: list[Callable[[], None]]
        self._bring_back = [partial(streams.load_state_dict, streams.state_dict())]
        self._gradients: TaskGradients
        self._natural: TaskGradients | None = None
        self._parts: list[Part] = []
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
                    self._prepare()

    @property
    def gradients(self) -> TaskGradients:
        """The task gradients that `gather` has made."""
        return self._gradients

    def aggregate(self) -> None:
        """Makes one gradient of the tasks'."""
        gradients, setting = self._gradients, self._setting
        self._tell()
        if gradients.rows is None:
            assert gradients.total is not None
            self._update = gradients.total
        elif not setting.partition.shared:
            self._update = Layout([]).empty()
            if isinstance(setting.combiner, WeightsFirst):
                self._weigh(setting.combiner, gradients)
        else:
            combined = [self._combine(part) for part in self._parts]
            self._update, self.weights = combined[0]
            for update, weights in combined[1:]:
                self._update.add_(update.tensors)
                if self.weights is not None and weights is not None:
                    self.weights = torch.stack([self.weights, weights])
            self._update = gradients.whole(self._update)
            self.gramian = self._parts[0].gramian
        if self.weights is not None:
            self._ledger.note(gradients.present, "weight", self.weights.sum())
        self._ledger.verify()

    def amplify(self) -> None:
        """Multiplies what is to be written by the factor of a grad scaler, if there is one."""
        if self._scale.factor is None:
            return
        learnt = [Layout([g]).copy_of([g]) for g in self._method_gradients if g is not None]
        for vector in (self._update, *self._gradients.own.values(), *learnt):
            for flat in self._scale.apply_(vector).flats:
                # Zero, or not a number; a norm may overflow where no element does.
                self._ledger.note(self._gradients.present, "scaled gradient", flat.mul(0).sum())
        self._ledger.verify()
        scaled = iter(learnt)
        self._method_gradients = [
            None if g is None else next(scaled).tensors[0] for g in self._method_gradients
        ]

    def write(self) -> None:
        """Adds the gradients to ``.grad``, and tells the estimator what it is to remember."""
        gradients, partition = self._gradients, self._setting.partition
        parts = [(partition.shared, self._update)]
        parts += [(partition.own[task], vector) for task, vector in gradients.own.items()]
        parameters = [parameter for part, _ in parts for parameter in part]
        found = [tensor for _, vector in parts for tensor in vector.tensors]
        accumulate(parameters, found, [id(p) in gradients.reached for p in parameters])
        if self._method_gradients:
            learnt = self._setting.combiner.parameters
            pairs = zip(learnt, self._method_gradients, strict=True)
            found = [p if g is None else g for p, g in pairs]
            accumulate(learnt, found, [g is not None for g in self._method_gradients])
        if self._setting.perturbation is not None:
            local = self._setting.perturbation.local
            if isinstance(local, Remembering):
                names = [partition.name(parameter) for parameter in partition.shared]
                for task, vector in gradients.remembered.items():
                    whole = map(assembled, vector.tensors, partition.shared)
                    local.remember(task, dict(zip(names, whole, strict=True)))

    def forget(self) -> None:
        """Brings what has learnt in the step, and the random numbers, back to its start."""
        for bring_back in reversed(self._bring_back):
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
        if len(self._closures) == 1 and isinstance(setting.combiner, WeightsFirst):
            self._weigh(setting.combiner)
        perturbation = setting.perturbation
        if perturbation is None or perturbation.rho == 0:
            gradients = self._task_gradients(agreed, use, divides=True)
            gradients.collect(tasks, losses, scale, ledger, "natural")
            self._weigh_batch(agreed, gradients)
            return gradients, None

        def replay(tasks: Sequence[str]) -> dict[str, Tensor]:
            return self._replay(trace, closure, tasks, self._mine)

        ascent = ascent_of(setting, perturbation, agreed, losses, replay, scale, ledger)
        natural = None
        # Where the natural gradients are made, their mean is at hand; where they are not needed any
        # more then, they lie in the rows that the perturbed ones get.
        mean_of_them = ascent.by_task and perturbation.alpha > 0 and self.weights is None
        if setting.flat_combiner is not None or mean_of_them:
            kept = setting.flat_combiner is not None
            first = self._task_gradients(agreed, f"natural {use}" if kept else use)
            first.collect(tasks, losses, scale, ledger, "natural")
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
        gradients = self._task_gradients(agreed, use, divides=True, remembers=remembers)
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
                    gradients.collect(group, found, scale, ledger, "perturbed")
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
        self, agreed: Agreement, use: str, *, divides: bool = False, remembers: bool = False
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
        if self.weights is not None:
            weights = dict(zip(self.losses.values(), self.weights, strict=True))
        return TaskGradients(
            setting.partition,
            setting.placement,
            setting.tasks,
            agreed.shares,
            setting.workspace,
            use if columns is None else "columns",
            weights=weights,
            weighs_own=weights is not None and isinstance(setting.combiner, WeightsOfLosses),
            remembers=remembers,
            columns=columns,
        )

    def _weigh(self, combiner: WeightsFirst, gradients: TaskGradients | None = None) -> Tensor:
        """The weights of a method that needs the losses at most, applied to own gradients made."""
        if combiner.sized:
            self._ledger.verify()  # a loss that is not finite must not get into the method's state
        means, losses = list(self.losses.values()), self._natural_losses()
        if isinstance(combiner, WeightsOfLosses):
            self._bring_back.append(combiner.bookmark())
        with undisturbed(self._setting.streams, [losses]):
            self.weights, self._method_gradients = combiner.weights(
                losses, [self._setting.tasks.index(task) for task in means]
            )
        self._ledger.note(means, "weight", self.weights.sum())
        if gradients is not None and isinstance(combiner, WeightsOfLosses):
            for task, weight in zip(means, self.weights, strict=True):
                if task in gradients.own:
                    gradients.own[task].mul_(weight)
        return self.weights

    def _natural_losses(self) -> Tensor:
        """The natural losses of the present tasks, in float32 or wider."""
        means = list(self.losses.values().values())
        dtype = wide(widest(means))
        return torch.stack([loss.to(dtype) for loss in means])

    def _tell(self) -> None:
        """Tells methods of the gradients the losses, and scales own gradients as they say."""
        setting, gradients = self._setting, self._gradients
        for combiner in (setting.combiner, setting.flat_combiner):
            if combiner is None or isinstance(combiner, WeightsFirst):
                continue
            # With a grad scaler the update may yet overflow, when all is learnt. Without, the state
            # of methods of whole matrices is left alone, which may be as large as the rows.
            learns = combiner.sees_losses and isinstance(combiner, WeightsOfGramian)
            if learns or self._scale.factor is not None:
                self._bring_back.append(combiner.bookmark())
            if not combiner.sees_losses:
                continue
            factors, of_method = combiner.tell(self._natural_losses(), self._here)
            if combiner is setting.flat_combiner or factors is None:
                continue
            self._method_gradients = of_method
            self._ledger.note(gradients.present, "weight", factors.sum())
            for task, factor in zip(gradients.present, factors, strict=True):
                if task in gradients.own:
                    gradients.own[task].mul_(factor)

    def _prepare(self) -> None:
        """Makes the matrices to combine; what the CPU must know is brought there all at once."""
        gradients, natural, setting = self._gradients, self._natural, self._setting
        for made in (gradients, natural):
            if made is not None:
                made.reduce()
                if len(self._closures) > 1:
                    made.average()
        if gradients.rows is not None and setting.partition.shared:
            rows = gradients.rows.select(self._here)
            if natural is None:
                self._parts = [Part(setting.combiner, rows)]
            else:
                assert natural.rows is not None
                assert setting.flat_combiner is not None
                of_losses = natural.rows.select(self._here)
                flat = rows.sub_(of_losses)
                self._parts = [
                    Part(setting.combiner, of_losses),
                    Part(setting.flat_combiner, flat),
                ]
        compared = [part for part in self._parts if not isinstance(part.combiner, WeightsFirst)]
        gramians = self._ledger.bring([part.rows.gramian() for part in compared])
        for part, gramian in zip(compared, gramians, strict=True):
            part.gramian = gramian

    def _combine(self, part: Part) -> tuple[Vector, Tensor | None]:
        combiner, rows = part.combiner, part.rows
        if isinstance(combiner, WeightsFirst):
            weights = self._weigh(combiner, self._gradients)
            return rows.combine(weights), weights
        if isinstance(combiner, WeightsOfGramian):
            assert part.gramian is not None
            with undisturbed(self._setting.streams, []):
                weights = combiner.weights(part.gramian, self._here)
            return rows.combine(weights), weights
        assert isinstance(combiner, WholeMatrix)
        with undisturbed(self._setting.streams, rows.flats):
            combined, of_matrix = combiner.combine(rows.whole(), self._here)
        return rows.layout.over(combined), of_matrix

    @property
    def _here(self) -> list[int]:
        """The numbers of the present tasks."""
        return [self._setting.tasks.index(task) for task in self._gradients.present]

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
