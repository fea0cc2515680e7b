"""One closure of a step: checked, evaluated at the natural point, and replayed at others."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from samo._errors import ClosureError
from samo._numbers import number
from samo.distributed import Agreement
from samo.model import Held, Journal, Reached, Trace, older_than, sequence_number

from ._finite import Guard
from ._setting import Setting

Losses = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Maps the names of the requested tasks to their losses, scalar tensors."""

BatchSize = float | Mapping[str, float]
"""The number of samples over which a closure's losses are means: a number, or one per task."""

_ABSENT = "A task without labels in a batch may be left out of the mapping."


class Batch:
    """One closure of a step: its losses at the natural point, and its replays at other points.

    Args:
        closure: The closure.
        sizes: The size of the batch, by task.
        setting: The engine's setting.
        trace: The open trace of the model.

    Attributes:
        sizes: The size of the batch, by task.
        agreed: The tasks present on any rank, with their mean losses and this rank's shares.
        losses: This rank's natural losses by task, with their graphs until these are
            handed over.
    """

    def __init__(
        self, closure: Losses, sizes: Mapping[str, float], setting: Setting, trace: Trace
    ) -> None:
        self.sizes = sizes
        self._closure, self._setting, self._trace = closure, setting, trace
        self.agreed: Agreement
        self.losses: dict[str, Tensor] = {}

    @property
    def tasks(self) -> list[str]:
        """The tasks present on any rank, in order."""
        return list(self.agreed.means)

    def evaluate(self, guard: Guard) -> None:
        """Runs the natural pass, and agrees with the other ranks on tasks and losses."""
        tasks, partition = self._setting.tasks, self._setting.partition
        world = self._setting.world
        keep_saved_tensors()
        ask = partial(self._ask, tasks, may_leave_out=True)
        begun = sequence_number()
        with torch.enable_grad():
            losses = self._trace.natural(ask)
        counted = {task: loss for task, loss in losses.items() if self.sizes[task] > 0}
        settled = partition.settles(self._trace.structure, counted)
        news = not settled and partition.is_news(counted, world.placement)
        if older_than(begun, losses, everywhere=news) and self._is_partial(losses, ask):
            raise ClosureError("The losses' graph contains operations from before the call.")
        agreed = self.agreed = world.ranks.agree(losses, self.sizes, news=news)
        if not agreed.means:
            raise ValueError(
                f"The losses closure was asked for {list(tasks)} and returned {list(losses)}. It "
                f"may omit tasks (or give them the batch_size 0), but not all of them, and must "
                f"omit the same tasks throughout a step."
            )
        self.losses = world.placement.taking_part(losses, agreed)
        if agreed.news:
            partition.update(self.losses, world.ranks, world.placement)
        partition.check()
        for task, loss in agreed.means.items():
            guard.check([task], "natural loss", loss)

    def away(self, displaced: Sequence[Parameter]) -> AbstractContextManager[None]:
        """Returns the context of replays, see `Trace.away`."""
        return self._trace.away(displaced)

    def left(self) -> Held:
        """Returns the parameters that the model wrote in the replay, as it left them."""
        return self._trace.left()

    def replay(self, tasks: Iterable[str], *, graphs: bool = True) -> dict[str, Tensor]:
        """Evaluates losses at the present parameters; tasks absent on this rank are skipped.

        Args:
            tasks: The tasks.
            graphs: Whether the graphs of the losses are needed. Closures that differentiate need
                them in any case, which is found out when they fail without.

        Returns:
            The losses by task.

        Raises:
            RuntimeError: If the closure raises it.
        """
        here = [task for task in tasks if task in self.losses]
        if not here:
            return {}
        traced = self._setting.traced
        if graphs or traced.differentiates:
            with torch.enable_grad():
                return self._replay(here)
        try:
            with torch.no_grad():
                return self._replay(here)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
        with torch.enable_grad():
            found = self._replay(here)
        traced.differentiates = True
        return found

    def _is_partial(
        self, losses: Mapping[str, Tensor], ask: Callable[[], Mapping[str, Tensor]]
    ) -> bool:
        """Whether another evaluation has operations in common with the natural pass."""
        # Operations that other threads recorded may be numbered as if they were older.
        with torch.enable_grad():
            again = Reached(self._trace.rehearse(ask).values())
        return not Reached(losses.values()).operations.isdisjoint(again.operations)

    def _replay(self, here: list[str]) -> dict[str, Tensor]:
        if self._trace.separable:
            losses = self._trace.replay(self._ask, here)
            if self._trace.separable:
                return losses
            del losses  # and its graph, before the next one is built
        losses = self._trace.replay(self._ask, list(self.losses))
        return {task: losses[task] for task in here}

    def hand_over(self) -> dict[str, Tensor]:
        """Returns the losses with their graphs, and keeps only their values."""
        found, self.losses = self.losses, {t: loss.detach() for t, loss in self.losses.items()}
        return found

    def rehearse(self) -> None:
        """Evaluates the losses before the natural pass, to determine the partition."""
        setting = self._setting
        with torch.enable_grad():
            ask = partial(self._ask, setting.tasks, may_leave_out=True)
            losses = self._trace.rehearse(ask)
            setting.partition.update(losses, setting.world.ranks, setting.world.placement)

    def _ask(self, wanted: Sequence[str], *, may_leave_out: bool = False) -> dict[str, Tensor]:
        tasks = self._setting.tasks
        losses = evaluated(self._closure, wanted, tasks, may_leave_out=may_leave_out)
        self._setting.world.placement.evaluated()
        return losses


# The types of devices for which this build of torch has autocast.
_AUTOCAST = [*filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu", "hpu", "mtia"))]


def keep_saved_tensors() -> None:
    """Allows compiled graphs to be differentiated several times, once ``torch.compile`` is in use.

    By default their backward pass may overwrite its inputs (it "donates" them). With dynamic
    shapes, this is decided before it is known that the graph is retained, and the second task's
    backward pass fails. The setting applies to the whole process.
    """
    dynamo: Any = sys.modules.get("torch._dynamo")
    if dynamo is None or not any(dynamo.eval_frame.cached_backends.values()):
        return
    from torch._functorch import config

    if config.donated_buffer:
        config.donated_buffer = False
        dynamo.reset()  # code that was compiled before may overwrite its inputs


def confined(
    closures: Sequence[Losses], journal: Journal
) -> tuple[list[Losses], AbstractContextManager[None]]:
    """Confines autocast to the closures of a step.

    Autocast is meant for forward passes. Backward passes use the same precision as these, and the
    arithmetic on gradients would overflow in float16.

    Args:
        closures: The closures of a step.
        journal: The journal of the step.

    Returns:
        The closures to call instead, and a context without autocast.
    """
    around = [device for device in _AUTOCAST if torch.is_autocast_enabled(device)]
    if not around:
        return list(closures), nullcontext()

    def enable(enabled: bool) -> None:
        for device in around:
            torch.set_autocast_enabled(device, enabled)

    on, off = partial(enable, True), partial(enable, False)

    def inside(closure: Losses) -> Losses:
        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            with journal.during(on, off):
                return closure(tasks)

        evaluate.__wrapped__ = closure  # type: ignore[attr-defined]
        return evaluate

    return [inside(closure) for closure in closures], journal.during(off, on)


def closures_of(losses: Losses | Sequence[Losses]) -> list[Losses]:
    """Returns the closures that `Engine.backward` was given, checked."""
    closures = list(losses) if isinstance(losses, Sequence) else [losses]
    if not closures:
        raise ValueError("losses is an empty list; give a closure, or one for each micro-batch.")
    for closure in closures:
        if not callable(closure):
            raise TypeError(
                f"losses must be a function of task names that returns their losses, or a list of "
                f"such functions; found {type(closure).__name__}. It is called several times per "
                f"step, so losses that are already computed cannot be used."
            )
    return closures


def evaluated(
    closure: Losses, wanted: Sequence[str], tasks: Sequence[str], *, may_leave_out: bool = False
) -> dict[str, Tensor]:
    """Calls a closure, and checks what it returns.

    Args:
        closure: The user's closure.
        wanted: The tasks to request.
        tasks: All tasks of the engine.
        may_leave_out: Whether tasks may be absent (in the natural pass).

    Returns:
        The losses of the requested tasks that are present, in their order.

    Raises:
        TypeError: If the closure does not return a mapping of names to tensors.
        ValueError: If it returns unknown tasks, not all requested tasks, or a loss that is not a
            scalar or has no graph.
    """
    try:
        answer = closure(list(wanted))
    except TypeError as error:
        if _takes_tasks(closure):
            raise
        raise TypeError(
            "losses must be a function with one argument, the names of the requested tasks: "
            "def losses(tasks)."
        ) from error
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"The losses closure must return a mapping of task names to losses; "
            f"found {type(answer).__name__}."
        )
    if unknown := [task for task in answer if task not in tasks]:
        raise ValueError(
            f"The losses closure returned unknown tasks {unknown}; the tasks are {list(tasks)}."
        )
    losses = {task: answer[task] for task in wanted if task in answer}
    if len(losses) < len(wanted) and not may_leave_out:
        raise ValueError(
            f"The losses closure was asked for {list(wanted)} and returned {list(answer)}. It may "
            f"omit tasks, but not all of them, and must omit the same tasks throughout a step."
        )
    for task, loss in losses.items():
        _check(task, loss)
    return losses


def sizes_of(
    batch_size: BatchSize | Sequence[BatchSize] | None, closures: int, tasks: Sequence[str]
) -> list[dict[str, float]]:
    """Returns the checked sizes by closure and task; a size that is not given is 1."""
    given = list(batch_size) if isinstance(batch_size, Sequence) else [batch_size] * closures
    if len(given) != closures:
        raise ValueError(
            f"batch_size must be one size, or one for each of the {closures} closures; found "
            f"{len(given)}."
        )
    found = []
    for size in given:
        if size is None:
            found.append(dict.fromkeys(tasks, 1.0))
            continue
        by_task = size if isinstance(size, Mapping) else dict.fromkeys(tasks, size)
        if unknown := [task for task in by_task if task not in tasks]:
            raise ValueError(f"batch_size names unknown tasks {unknown}; found {batch_size!r}.")
        sizes = dict.fromkeys(tasks, 1.0)
        for task, given_size in by_task.items():
            if given_size is None:
                continue
            if (value := number(given_size)) is None:
                raise TypeError(f"batch_size must contain only numbers; found {given_size!r}.")
            if not 0 <= value < math.inf:
                raise ValueError(f"batch_size must be finite and at least 0; found {given_size!r}.")
            sizes[task] = value
        found.append(sizes)
    return found


def _takes_tasks(closure: Losses) -> bool:
    """Whether a function can be called with one argument, as far as its signature tells."""
    try:
        inspect.signature(closure).bind([])
    except TypeError:
        return False
    except ValueError:  # it has no signature
        pass
    return True


def _check(task: str, loss: object) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"The loss of task {task!r} must be a tensor; found {type(loss).__name__}. {_ABSENT}"
        )
    if loss.dim() != 0:
        raise ValueError(
            f"The loss of task {task!r} must be a scalar (a tensor of shape []); found shape "
            f"{list(loss.shape)}. Reduce it, for instance with .mean()."
        )
    if not loss.is_floating_point():
        raise ValueError(f"The loss of task {task!r} must be floating-point; found {loss.dtype}.")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            f"The loss of task {task!r} has no graph (requires_grad is False), so it has no "
            f"gradient: was it detached, computed under no_grad, or from frozen parameters only? "
            f"{_ABSENT}"
        )
