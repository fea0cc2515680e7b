"""What a step evaluates and differentiates, and the same in a bare loop."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from samo.engine import Losses

_BACKWARDS = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


@dataclass(frozen=True)
class Forward:
    """A call of the closure.

    Attributes:
        tasks: The tasks that it is asked for.
        graph: Whether a graph is recorded.
    """

    tasks: tuple[str, ...]
    graph: bool


@dataclass(frozen=True)
class Backward:
    """A backward pass.

    Attributes:
        losses: Those that it starts from: the number of the closure's call, and the task.
        parameters: The numbers of the model's parameters that are differentiated by.
        retain: Whether the graph is used again.
    """

    losses: tuple[tuple[int, str], ...]
    parameters: tuple[int, ...]
    retain: bool


@dataclass(frozen=True)
class Arithmetic:
    """The passes of a step, in their order.

    Run by itself, it is the *bare arithmetic*: the same forward and backward passes on the same
    model, with no perturbing, copying, drawing or aggregating.

    Attributes:
        operations: The passes.
    """

    operations: tuple[Forward | Backward, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind.

        ``forwards`` record a graph and ``evaluations`` do not; ``heads`` are the tasks' losses that
        they compute, together.
        """
        calls = [o for o in self.operations if isinstance(o, Forward)]
        return {
            "forwards": sum(call.graph for call in calls),
            "evaluations": sum(not call.graph for call in calls),
            "heads": sum(len(call.tasks) for call in calls),
            "backwards": len(self.operations) - len(calls),
        }

    @property
    def key(self) -> str:
        """The same for the same passes in the same order, and for those only."""
        return hashlib.sha256(repr(self.operations).encode()).hexdigest()[:12]

    def run(self, losses: Losses, model: nn.Module) -> None:
        """Evaluates and differentiates; all results are let go as soon as may be.

        Args:
            losses: The closure.
            model: The model.
        """
        parameters = list(model.parameters())
        last = {
            call: i
            for i, operation in enumerate(self.operations)
            if isinstance(operation, Backward)
            for call, _ in operation.losses
        }
        held: dict[int, Mapping[str, Tensor]] = {}
        call = 0
        for i, operation in enumerate(self.operations):
            if isinstance(operation, Forward):
                with torch.set_grad_enabled(operation.graph):
                    found = losses(operation.tasks)
                if call in last:
                    held[call] = found
                del found
                call += 1
                continue
            torch.autograd.grad(
                [held[number][task] for number, task in operation.losses],
                [parameters[number] for number in operation.parameters],
                retain_graph=operation.retain,
                allow_unused=True,
            )
            for number in {number for number, _ in operation.losses}:
                if last[number] == i:
                    del held[number]


def one_pass(tasks: Sequence[str], model: nn.Module) -> Arithmetic:
    """One forward and one backward pass of all losses together: the least that a step can be.

    Args:
        tasks: The tasks.
        model: The model.

    Returns:
        The arithmetic.
    """
    wanted = tuple(i for i, p in enumerate(model.parameters()) if p.requires_grad)
    backward = Backward(tuple((0, task) for task in tasks), wanted, retain=False)
    return Arithmetic((Forward(tuple(tasks), graph=True), backward))


def recorded(
    step: Callable[[Losses], object], losses: Losses, model: nn.Module
) -> tuple[Arithmetic, int]:
    """Watches a step.

    Args:
        step: The step, which takes the closure.
        losses: The closure.
        model: The model.

    Returns:
        What was evaluated and differentiated, and how many bytes were drawn from generators other
        than the global ones.

    Raises:
        RuntimeError: If a backward pass starts from something else than the closure's losses, or is
            by something else than the model's parameters.
    """
    recorder = _Recorder(model)
    noise = _Noise()  # type: ignore[no-untyped-call]
    with recorder, noise:
        step(recorder.listening(losses))
    return Arithmetic(tuple(recorder.operations)), noise.drawn


class _Recorder(TorchFunctionMode):
    """Notes the closure's calls, and the backward passes from what they gave."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[Forward | Backward] = []
        self._numbers = {id(p): i for i, p in enumerate(model.parameters())}
        self._calls = 0
        # Weak: the graphs must be let go as they are without a recorder.
        self._places: dict[int, tuple[weakref.ref[Tensor], tuple[int, str]]] = {}

    def listening(self, losses: Losses) -> Losses:
        """The same closure, listened to."""

        def listened(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            self.operations.append(Forward(tuple(tasks), torch.is_grad_enabled()))
            found = losses(tasks)
            for task, loss in found.items():
                self._places[id(loss)] = (weakref.ref(loss), (self._calls, task))
            self._calls += 1
            return found

        return listened

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BACKWARDS:
            self._note(args[0], args[1] if len(args) > 1 else kwargs.get("inputs"), kwargs)
        return func(*args, **kwargs)

    def _note(self, outputs: Any, inputs: Any, options: Mapping[str, Any]) -> None:
        starts = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        by = [inputs] if isinstance(inputs, Tensor) else list(inputs or ())
        if by and not any(id(p) in self._numbers for p in by):
            return  # a method's own, such as the slopes of a scalarizer
        try:
            losses = tuple(self._place(loss) for loss in starts)
            numbers = tuple(self._numbers[id(p)] for p in by) if by else None
        except KeyError:
            raise RuntimeError(
                "A step's bare arithmetic is known only where its backward passes go from the "
                "closure's losses to the model's parameters."
            ) from None
        retain = bool(options.get("retain_graph") or options.get("create_graph"))
        self.operations.append(
            Backward(losses, tuple(self._numbers.values()) if numbers is None else numbers, retain)
        )

    def _place(self, loss: Tensor) -> tuple[int, str]:
        reference, place = self._places[id(loss)]
        if reference() is not loss:
            raise KeyError(id(loss))
        return place


class _Noise(TorchDispatchMode):
    """Counts the bytes that generators which the caller names are asked for."""

    drawn = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is not None:
            self.drawn += made.nbytes
        return made
