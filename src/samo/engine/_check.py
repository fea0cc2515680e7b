"""Checks what a losses closure changes, and whether it evaluates the same function every time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from samo.model import Trace, Traced, moved_by

from ._batch import Losses, evaluated
from ._setting import Setting


@dataclass(frozen=True)
class ClosureReport:
    """What two evaluations of a losses closure at one point have shown.

    Attributes:
        losses: The tasks whose loss was another one the second time, with both losses.
        moved: What the first evaluation has moved, by name: parameters, buffers, attributes,
            random states. A step puts it back after each further evaluation.
    """

    losses: Mapping[str, tuple[float, float]]
    moved: Sequence[str]

    @property
    def pure(self) -> bool:
        """Whether all losses were the same."""
        return not self.losses

    def __str__(self) -> str:
        """Describes the findings in a few lines."""
        lines = [
            f"The loss of task {task!r} is {first!r} in the natural pass and {second!r} in a "
            f"second evaluation at the same point."
            for task, (first, second) in self.losses.items()
        ]
        if self.pure:
            lines = ["All losses are the same in a second evaluation at the same point."]
        else:
            lines.append(
                "Something that a step cannot put back differs: an iterator, a generator of the "
                "closure's own, a module outside of the model (name it in guards=), or an "
                "operation that is not deterministic."
            )
        if self.moved:
            lines.append("Moved in the natural pass, and put back by a step: ")
            lines[-1] += ", ".join(self.moved) + "."
        return "\n".join(lines)


def check(setting: Setting, closure: Losses) -> ClosureReport:
    """Evaluates a closure twice at the same point, together and task by task.

    The second evaluation starts from the state before the first, as in a step. Nothing is changed.

    Args:
        setting: The engine's setting.
        closure: The closure.

    Returns:
        The report.
    """
    traced, placement, journal = setting.traced, setting.world.placement, setting.journal
    journal.note(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
    silent = journal.during(placement.begin, placement.end)
    # The engine learns nothing from it.
    with silent, torch.enable_grad(), Trace(traced, replays=False) as whole:
        fresh = Traced(traced.model, traced.guards, journal=journal)
        return whole.rehearse(partial(_twice, setting, fresh, closure))


def _twice(setting: Setting, traced: Traced, closure: Losses) -> ClosureReport:
    moved: list[str] = []

    def ask(wanted: Sequence[str]) -> dict[str, Tensor]:
        losses = evaluated(closure, wanted, setting.tasks, may_leave_out=True)
        setting.world.placement.evaluated()
        return losses

    def first_time() -> dict[str, Tensor]:
        losses, names = moved_by(partial(ask, setting.tasks), traced.models)
        moved.extend(names)
        return losses

    differing: dict[str, tuple[float, float]] = {}
    with Trace(traced) as trace:
        first = {task: loss.item() for task, loss in trace.natural(first_time).items()}
        with trace.away(()):
            alone = [[task] for task in first] if len(first) > 1 else []
            for wanted in (list(first), *alone):
                second = trace.replay(ask, wanted)
                if len(wanted) < len(first) and not trace.separable:
                    break  # a step asks for all tasks then
                for task, loss in second.items():
                    now = loss.item()
                    if now != first[task] and not (math.isnan(now) and math.isnan(first[task])):
                        differing.setdefault(task, (first[task], now))
    return ClosureReport(differing, tuple(moved))
