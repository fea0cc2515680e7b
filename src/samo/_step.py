"""One step, as a short sequence of stages: gather, aggregate, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ._ascent import Ascent
from ._autocast import undisturbed
from ._closure import Losses, evaluated
from ._errors import NonFiniteError
from ._gradients import Scale, TaskGradients, accumulate
from ._ledger import Ledger
from ._local import Grouping, Remembering
from ._partition import Partition
from ._perturbation import Perturbation
from ._random import Streams
from ._result import Means
from ._trace import Trace, Tracer
from ._vector import Layout, Matrix, Vector, wide, widest
from ._workspace import Workspace
from .aggregation._combine import (
    Combiner,
    WeightsFirst,
    WeightsOfGramian,
    WeightsOfLosses,
    WholeMatrix,
)


@dataclass(frozen=True)
class Setting:
    """What an engine's steps have in common."""

    model: nn.Module
    tasks: tuple[str, ...]
    perturbation: Perturbation | None
    combiner: Combiner
    flat_combiner: Combiner | None
    partition: Partition
    streams: Streams
    tracer: Tracer
    workspace: Workspace


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
    """

    def __init__(self, setting: Setting, closures: Sequence[Losses], scale: Scale) -> None:
        self._setting = setting
        self._closures = closures
        self._scale = scale
        self._ledger = Ledger()
        self.losses = Means(setting.tasks)
        self.perturbed = Means(setting.tasks)
        self.weights: Tensor | None = None
        self.gramian: Tensor | None = None
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
                gradients, natural = self._evaluate(closure, trace, str(number % 2))
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
        if self._scale.factor is not None:  # it may yet overflow, when all is learnt
            for combiner in (setting.combiner, setting.flat_combiner):
                if combiner is not None and not isinstance(combiner, WeightsFirst):
                    self._bring_back.append(combiner.bookmark())
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
                    local.remember(task, dict(zip(names, vector.tensors, strict=True)))

    def forget(self) -> None:
        """Brings what has learnt in the step, and the random numbers, back to its start."""
        for bring_back in reversed(self._bring_back):
            bring_back()

    def _evaluate(
        self, closure: Losses, trace: Trace, use: str
    ) -> tuple[TaskGradients, TaskGradients | None]:
        """One micro-batch: the natural pass, the ascent, and the gradients at the points found."""
        setting, scale, ledger = self._setting, self._scale, self._ledger
        ask = partial(evaluated, closure, tasks=setting.tasks)
        with torch.enable_grad():
            losses = trace.natural(lambda: ask(setting.tasks, may_leave_out=True))
        setting.partition.update(losses)
        for task, loss in losses.items():
            ledger.note([task], "natural loss", loss)
        self.losses.add(losses)
        if len(self._closures) == 1 and isinstance(setting.combiner, WeightsFirst):
            self._weigh(setting.combiner)
        perturbation = setting.perturbation
        if perturbation is None or perturbation.rho == 0:
            gradients = self._task_gradients(use)
            gradients.collect(losses, scale, ledger, "natural")
            return gradients, None

        def replay(tasks: Sequence[str]) -> dict[str, Tensor]:
            return self._replay(trace, closure, tasks, list(losses))

        ascent = Ascent(
            perturbation,
            setting.partition,
            losses,
            replay,
            setting.streams,
            scale,
            ledger,
            setting.workspace,
        )
        natural = None
        if setting.flat_combiner is not None:
            natural = self._task_gradients(f"natural {use}")
            natural.collect(losses, scale, ledger, "natural")
            ascent.from_gradients(natural)
        elif ascent.by_task and perturbation.alpha > 0 and self.weights is None:
            # Their mean is at hand once they are made, in the rows that the perturbed ones get.
            first = self._task_gradients(use)
            first.collect(losses, scale, ledger, "natural")
            ascent.from_gradients(first)
        else:
            ascent.from_losses()
        if isinstance(ascent.estimator, Grouping):
            known = ascent.estimator.state_dict()
            self._bring_back.append(partial(ascent.estimator.load_state_dict, known))
        remembers = isinstance(ascent.estimator, Remembering)
        gradients = self._task_gradients(use, remembers=remembers)
        for group in ascent.groups:
            with ascent.displaced(group):
                with torch.enable_grad():
                    perturbed = replay(group)
                for task, loss in perturbed.items():
                    ledger.note([task], "perturbed loss", loss)
                self.perturbed.add(perturbed)
                # Who is to blame for a sum must be found out here, where it is not finite.
                in_sum = len(group) > 1 and gradients.rows is None
                with self._blaming(closure, trace) if in_sum else nullcontext():
                    gradients.collect(perturbed, scale, ledger, "perturbed")
        return gradients, natural

    def _replay(
        self, trace: Trace, closure: Losses, tasks: Sequence[str], present: Sequence[str]
    ) -> dict[str, Tensor]:
        """The losses of some tasks at the parameters as they are."""
        ask = partial(evaluated, closure, tasks=self._setting.tasks)
        if trace.separable:
            losses = trace.replay(ask, tasks)
            if trace.separable:
                return losses
            del losses  # and its graph, before the next is made
        losses = trace.replay(ask, present)
        return {task: losses[task] for task in tasks}

    def _task_gradients(self, use: str, *, remembers: bool = False) -> TaskGradients:
        setting, weights = self._setting, None
        if self.weights is not None:
            weights = dict(zip(self.losses.values(), self.weights, strict=True))
        return TaskGradients(
            setting.partition,
            setting.tasks,
            setting.workspace,
            use,
            weights=weights,
            weighs_own=weights is not None and isinstance(setting.combiner, WeightsOfLosses),
            remembers=remembers,
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
            if combiner is None or isinstance(combiner, WeightsFirst) or not combiner.sees_losses:
                continue
            if isinstance(combiner, WeightsOfGramian):  # others' state may be as large as the rows
                self._bring_back.append(combiner.bookmark())
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
        gradients.average()
        if natural is not None:
            natural.average()
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
        tasks = self._setting.tasks
        for closure in self._closures:
            ask = partial(evaluated, closure, tasks, tasks, may_leave_out=True)
            with self._setting.tracer.trace() as trace, torch.enable_grad():
                self._setting.partition.update(trace.rehearse(ask))

    @contextmanager
    def _blaming(self, closure: Losses, trace: Trace) -> Iterator[None]:
        """Names the task at fault where the gradient of a sum is not finite."""
        try:
            yield
            self._ledger.verify()
        except NonFiniteError as error:
            raise self._culprit(error, closure, trace) from None

    def _culprit(self, error: NonFiniteError, closure: Losses, trace: Trace) -> NonFiniteError:
        if len(error.tasks) == 1:
            return error
        setting = self._setting
        parameters = [p for p in setting.model.parameters() if p.requires_grad]
        for task in error.tasks:
            with torch.enable_grad():
                loss = self._replay(trace, closure, [task], error.tasks)[task]
            seed = self._scale.seed(loss)
            gradients = torch.autograd.grad(loss, parameters, seed, allow_unused=True)
            if not all(g.isfinite().all() for g in [loss, *gradients] if g is not None):
                return NonFiniteError([task], error.stage)
        return error
