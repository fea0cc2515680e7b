"""One step, as a short sequence of stages: gather, aggregate, write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ._ascent import Ascent, Evaluate
from ._closure import Losses, evaluated
from ._errors import NonFiniteError
from ._gradients import Scale, TaskGradients
from ._ledger import Ledger
from ._local import Remembering
from ._partition import Partition
from ._parts import assembled, local
from ._perturbation import Perturbation
from ._placement import Placement, Replicated
from ._random import Streams
from ._ranks import Agreement, Alone, Ranks
from ._trace import Trace, Tracer
from ._vector import Layout, Matrix, Vector, wide, widest
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
    ranks: Ranks
    placement: Placement
    sync_perturbation: bool


class Means:
    """Means of the tasks' losses over the micro-batches, weighted by their sizes."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._found: dict[str, list[tuple[Tensor, float]]] = {task: [] for task in tasks}

    def add(self, losses: Mapping[str, Tensor], sizes: Mapping[str, float]) -> None:
        """Takes in the losses of a micro-batch."""
        for task, loss in losses.items():
            self._found[task].append((loss, sizes[task]))

    def values(self) -> dict[str, Tensor]:
        """The means, by task in the order of the tasks."""
        means = {}
        for task, found in self._found.items():
            if len(found) == 1:
                means[task] = found[0][0]
            elif found:
                total = sum(size for _, size in found)
                means[task] = torch.stack([loss * (size / total) for loss, size in found]).sum()
        return means


class Step:
    """One step of an engine.

    Args:
        setting: What is the engine's.
        closures: The closures, one for each micro-batch.
        sizes: The sizes of the micro-batches by task.
        scale: The factor on losses before backward passes.
    """

    def __init__(
        self,
        setting: Setting,
        closures: Sequence[Losses],
        sizes: Sequence[Mapping[str, float]],
        scale: Scale,
    ) -> None:
        self._setting = setting
        self._closures, self._batch_sizes = closures, sizes
        self._scale = scale
        self._ledger = Ledger()
        self.losses = Means(setting.tasks)
        self.perturbed = Means(setting.tasks)
        self.sizes: dict[str, float] = {}
        self.weights: Tensor | None = None
        self.gramian: Tensor | None = None
        self._method_gradients: list[Tensor | None] = []
        self._bring_back: list[Callable[[], None]] = []
        self._gradients: TaskGradients
        self._natural: TaskGradients | None = None
        self._here: list[str] = []
        self._update: Vector

    def gather(self) -> None:
        """Makes the task gradients: of each micro-batch, then averaged."""
        setting = self._setting
        if len(self._closures) > 1 and not setting.partition.knows(setting.tasks):
            self._discover()
        for number, closure in enumerate(self._closures):
            with setting.tracer.trace() as trace, self._blaming(closure, trace):
                gradients, natural = self._evaluate(closure, trace, self._batch_sizes[number])
            if number > 0:
                gradients.merge(self._gradients)
                if natural is not None and self._natural is not None:
                    natural.merge(self._natural)
            self._gradients, self._natural = gradients, natural
        for made in (self._gradients, self._natural):
            if made is not None:
                made.reduce()
                if len(self._closures) > 1:
                    made.average()

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
            here = [setting.tasks.index(task) for task in gradients.present]
            rows = gradients.rows.select(here)
            if self._natural is None:
                self._update = self._combine(setting.combiner, rows, here)
            else:
                assert self._natural.rows is not None
                assert setting.flat_combiner is not None
                natural = self._natural.rows.select(here)
                loss_part = self._combine(setting.combiner, natural, here)
                weights, gramian = self.weights, self.gramian
                flat_part = self._combine(setting.flat_combiner, rows.sub_(natural), here)
                self._update = loss_part.add_(flat_part.tensors)
                self.gramian = gramian
                if weights is not None and self.weights is not None:
                    self.weights = torch.stack([weights, self.weights])
            self._update = gradients.whole(self._update)
        if self.weights is not None:
            self._ledger.note(gradients.present, "weight", self.weights.sum())
        self._ledger.verify()

    def write(self) -> None:
        """Adds the gradients to ``.grad``, and tells the estimator what it is to remember."""
        gradients, partition = self._gradients, self._setting.partition
        parts = [(partition.shared, self._update)]
        parts += [(partition.own[task], vector) for task, vector in gradients.own.items()]
        for parameters, vector in parts:
            reached = [id(parameter) in gradients.reached for parameter in parameters]
            _accumulate(parameters, self._scale.apply_(vector).tensors, reached)
        if self._method_gradients:
            parameters = self._setting.combiner.parameters
            found = [
                self._scale.apply_(Layout([g]).copy_of([g])).tensors[0] if g is not None else p
                for p, g in zip(parameters, self._method_gradients, strict=True)
            ]
            _accumulate(parameters, found, [g is not None for g in self._method_gradients])
        if self._setting.perturbation is not None:
            local = self._setting.perturbation.local
            if isinstance(local, Remembering):
                names = [partition.name(parameter) for parameter in partition.shared]
                for task, vector in gradients.remembered.items():
                    parts = zip(vector.tensors, partition.shared, strict=True)
                    whole = [assembled(part, parameter) for part, parameter in parts]
                    local.remember(task, dict(zip(names, whole, strict=True)))

    def forget(self) -> None:
        """Brings a method that has learnt from the losses back to where it was before the step."""
        for bring_back in self._bring_back:
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
        agreed = ranks.agree(losses, sizes, news=partition.is_news(losses, placement))
        if not agreed.means:
            raise ValueError(
                f"The losses closure was asked for {list(setting.tasks)} and no rank's returned a "
                f"loss that counts; some task must be present."
            )
        losses = placement.taking_part(losses, agreed)
        if agreed.news:
            partition.update(losses, ranks, placement)
        self._here = list(losses)
        for task in losses:
            self.sizes[task] = self.sizes.get(task, 0.0) + sizes[task]
        for task, loss in agreed.means.items():
            self._ledger.note([task], "natural loss", loss)
        self.losses.add(agreed.means, agreed.sizes)
        return agreed, losses

    def _evaluate(
        self, closure: Losses, trace: Trace, sizes: Mapping[str, float]
    ) -> tuple[TaskGradients, TaskGradients | None]:
        """One micro-batch: the natural pass, the ascent, and the gradients at the points found."""
        setting, scale, ledger = self._setting, self._scale, self._ledger
        agreed, losses = self._natural_pass(closure, trace, sizes)
        tasks = list(agreed.means)
        if len(self._closures) == 1 and isinstance(setting.combiner, WeightsFirst):
            self._weigh(setting.combiner)
        perturbation = setting.perturbation
        if perturbation is None or perturbation.rho == 0:
            gradients = self._task_gradients(agreed)
            gradients.collect(tasks, losses, scale, ledger, "natural")
            if len(self._closures) > 1:
                gradients.weigh(agreed.sizes)
            return gradients, None

        def replay(tasks: Sequence[str]) -> dict[str, Tensor]:
            return self._replay(trace, closure, tasks, list(losses))

        ascent = self._ascent(perturbation, agreed, losses, replay)
        natural = None
        if setting.flat_combiner is not None:
            natural = TaskGradients(
                setting.partition, setting.placement, setting.tasks, agreed.shares
            )
            natural.collect(tasks, losses, scale, ledger, "natural")
            if setting.sync_perturbation:
                natural.reduce()
            of_one = setting.sync_perturbation
            ascent.from_gradients(natural, dict.fromkeys(tasks, 1.0) if of_one else agreed.shares)
        else:
            ascent.from_losses()
        remembers = isinstance(ascent.estimator, Remembering)
        gradients = self._task_gradients(agreed, remembers=remembers)
        perturbed: dict[str, Tensor] = {}
        for group in ascent.groups(tasks):
            here = [task for task in group if task in losses]
            with ascent.displaced(group):
                with torch.enable_grad():
                    found = replay(here) if here else {}
                for task, loss in found.items():
                    ledger.note([task], "perturbed loss", loss)
                    perturbed[task] = loss.detach().clone()  # a loss may be a parameter
                # Who is to blame for a sum must be found out here, where it is not finite.
                with self._blaming(closure, trace) if len(group) > 1 else nullcontext():
                    gradients.collect(group, found, scale, ledger, "perturbed")
        self.perturbed.add(setting.ranks.means(tasks, perturbed, agreed.shares), agreed.sizes)
        if len(self._closures) > 1:
            gradients.weigh(agreed.sizes)
            if natural is not None:
                natural.weigh(agreed.sizes)
        return gradients, natural

    def _ascent(
        self,
        perturbation: Perturbation,
        agreed: Agreement,
        losses: Mapping[str, Tensor],
        evaluate: Evaluate,
    ) -> Ascent:
        """The ascent of all ranks, or of this rank by itself."""
        setting = self._setting
        ranks, placement, streams = setting.ranks, setting.placement, setting.streams
        if not setting.sync_perturbation:
            streams = streams.apart(ranks.rank)
            ranks = Alone()
            placement = Replicated(setting.model, ranks)
            agreed = ranks.agree(losses, agreed.sizes, news=False)
        return Ascent(
            perturbation,
            setting.partition,
            ranks,
            placement,
            agreed,
            losses,
            evaluate,
            streams,
            self._scale,
            self._ledger,
        )

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

    def _task_gradients(self, agreed: Agreement, *, remembers: bool = False) -> TaskGradients:
        setting, weights = self._setting, None
        # Columns alone are enough where nothing but inner products and sums is made of the rows.
        gramian = isinstance(setting.combiner, WeightsOfGramian) and setting.flat_combiner is None
        divides = gramian and not remembers and len(self._closures) == 1
        if self.weights is not None:
            weights = dict(zip(self.losses.values(), self.weights, strict=True))
        return TaskGradients(
            setting.partition,
            setting.placement,
            setting.tasks,
            agreed.shares,
            weights=weights,
            weighs_own=weights is not None and isinstance(setting.combiner, WeightsOfLosses),
            remembers=remembers,
            columns=setting.placement.columns(setting.partition.shared) if divides else None,
        )

    def _weigh(self, combiner: WeightsFirst, gradients: TaskGradients | None = None) -> Tensor:
        """The weights of a method that needs the losses at most, applied to own gradients made."""
        if combiner.sized:
            self._ledger.verify()  # a loss that is not finite must not get into the method's state
        means, losses = list(self.losses.values()), self._natural_losses()
        if isinstance(combiner, WeightsOfLosses):
            self._bring_back.append(combiner.bookmark())
        with self._undisturbed([losses]):
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
        here = [setting.tasks.index(task) for task in gradients.present]
        for combiner in (setting.combiner, setting.flat_combiner):
            if combiner is None or isinstance(combiner, WeightsFirst) or not combiner.sees_losses:
                continue
            if isinstance(combiner, WeightsOfGramian):  # others' state may be as large as the rows
                self._bring_back.append(combiner.bookmark())
            factors, of_method = combiner.tell(self._natural_losses(), here)
            if combiner is setting.flat_combiner or factors is None:
                continue
            self._method_gradients = of_method
            self._ledger.note(gradients.present, "weight", factors.sum())
            for task, factor in zip(gradients.present, factors, strict=True):
                if task in gradients.own:
                    gradients.own[task].mul_(factor)

    def _combine(self, combiner: Combiner, rows: Matrix, here: list[int]) -> Vector:
        if isinstance(combiner, WeightsFirst):
            return rows.combine(self._weigh(combiner, self._gradients))
        if isinstance(combiner, WeightsOfGramian):
            self.gramian = rows.gramian()
            with self._undisturbed([]):
                self.weights = combiner.weights(self.gramian, here)
            return rows.combine(self.weights)
        assert isinstance(combiner, WholeMatrix)
        self.gramian = rows.gramian()
        with self._undisturbed(rows.flats):
            combined, self.weights = combiner.combine(rows.whole(), here)
        return rows.layout.over(combined)

    @contextmanager
    def _undisturbed(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Where methods run: with the engine's random numbers, and without a user's autocast."""
        devices = {tensor.device for tensor in tensors}
        with ExitStack() as stack:
            stack.enter_context(self._setting.streams.as_global(devices))
            for kind in {"cpu", *(device.type for device in devices)}:
                if torch.amp.is_autocast_available(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield

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
            raise self._culprit(error, closure, trace) from None

    def _culprit(self, error: NonFiniteError, closure: Losses, trace: Trace) -> NonFiniteError:
        if len(error.tasks) == 1:
            return error
        setting = self._setting
        parameters = [p for p in setting.model.parameters() if p.requires_grad]
        for task in [task for task in error.tasks if task in self._here]:
            with torch.enable_grad():
                loss = self._replay(trace, closure, [task], self._here)[task]
            gradients = setting.placement.differentiate(
                [loss], parameters, [self._scale.seed(loss)], retain=False
            )
            layout = Layout(parameters, setting.placement.spread)
            if not (loss.isfinite() and layout.copy_of(gradients).norm().isfinite()):
                return NonFiniteError([task], error.stage)
        return error


def _accumulate(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], reached: Sequence[bool]
) -> None:
    """Adds to ``.grad`` of the parameters that were reached, as ``Tensor.backward`` does."""
    sums, terms = [], []
    for parameter, gradient, here in zip(parameters, gradients, reached, strict=True):
        if not here:
            continue
        if parameter.grad is None:
            parameter.grad = assembled(gradient, parameter)
        else:
            sums.append(local(parameter.grad))
            terms.append(gradient)
    if sums:
        torch._foreach_add_(sums, terms)
