"""Records the forward and backward passes of a step, and repeats them in a bare loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from samo.engine import Losses

_BACKWARDS = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)


@dataclass(frozen=True)
class Forward:
    """A call of the closure.

    Attributes:
        tasks: The requested tasks.
        graph: Whether autograd records a graph.
    """

    tasks: tuple[str, ...]
    graph: bool


@dataclass(frozen=True)
class Backward:
    """A backward pass.

    Attributes:
        losses: The differentiated losses: the number of the closure's call, and the task.
        parameters: The indices of the parameters that they are differentiated with respect to.
        retain: Whether the graph is retained.
    """

    losses: tuple[tuple[int, str], ...]
    parameters: tuple[int, ...]
    retain: bool


@dataclass(frozen=True)
class Arithmetic:
    """The passes of a step, in order.

    Run in isolation, they are the *bare arithmetic* of the step: the same forward and backward
    passes on the same model, without perturbation, copies, random numbers and aggregation.

    Attributes:
        operations: The passes.
    """

    operations: tuple[Forward | Backward, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The number of passes of each kind.

        ``forwards`` record a graph, ``evaluations`` do not; ``heads`` counts the losses of tasks
        that both compute.
        """
        calls = [o for o in self.operations if isinstance(o, Forward)]
        return {
            "forwards": sum(call.graph for call in calls),
            "evaluations": sum(not call.graph for call in calls),
            "heads": sum(len(call.tasks) for call in calls),
            "backwards": len(self.operations) - len(calls),
        }

    def run(self, losses: Losses, model: nn.Module) -> None:
        """Runs the passes, and frees all results as early as possible."""
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


def recorded(
    step: Callable[[Losses], object], losses: Losses, model: nn.Module
) -> tuple[Arithmetic, int]:
    """Records a step.

    A backward pass that stops within the graph counts as one with the pass that continues there.

    Args:
        step: The step, which takes the closure.
        losses: The closure.
        model: The model.

    Returns:
        The passes, and the number of random bytes drawn from explicit generators.

    Raises:
        RuntimeError: If a backward pass does not start from losses of the closure, or is not with
            respect to parameters of the model.
    """
    recorder = _Recorder(model)
    noise = _Noise()  # type: ignore[no-untyped-call]
    with recorder, noise:
        step(recorder.recording(losses))
    return Arithmetic(tuple(recorder.operations)), noise.drawn


class _Recorder(TorchFunctionMode):
    """Records the calls of the closure, and the backward passes of their losses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[Forward | Backward] = []
        self._numbers = {id(p): i for i, p in enumerate(model.parameters())}
        self._calls = 0
        # Weak references, so that graphs are freed as without a recorder.
        self._places: dict[int, tuple[weakref.ref[Tensor], tuple[int, str]]] = {}

    def recording(self, losses: Losses) -> Losses:
        """Returns a closure that records its calls."""

        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            self.operations.append(Forward(tuple(tasks), torch.is_grad_enabled()))
            found = losses(tasks)
            for task, loss in found.items():
                self._places[id(loss)] = (weakref.ref(loss), (self._calls, task))
            self._calls += 1
            return found

        return evaluate

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BACKWARDS:
            self._note(args[0], args[1] if len(args) > 1 else kwargs.get("inputs"), kwargs)
        return func(*args, **kwargs)

    def _note(self, outputs: Any, inputs: Any, options: Mapping[str, Any]) -> None:
        starts = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        ends = [inputs] if isinstance(inputs, Tensor) else list(inputs or ())
        parameters = [end for end in ends if not isinstance(end, GradientEdge)]
        if parameters and not any(id(p) in self._numbers for p in parameters):
            return  # a backward pass of the method, such as for the slopes of a scalarizer
        try:
            numbers = tuple(self._numbers[id(p)] for p in parameters) or (
                () if ends else tuple(self._numbers.values())
            )
            if any(isinstance(start, GradientEdge) for start in starts):
                self._continue(numbers)
                return
            losses = tuple(self._place(loss) for loss in starts)
        except KeyError:
            raise RuntimeError(
                "The bare arithmetic of a step is defined only if its backward passes lead from "
                "the closure's losses to the model's parameters."
            ) from None
        retain = bool(options.get("retain_graph") or options.get("create_graph"))
        self.operations.append(Backward(losses, numbers, retain))

    def _continue(self, numbers: tuple[int, ...]) -> None:
        """Completes the last backward pass, which stopped within the graph."""
        before = self.operations[-1]
        assert isinstance(before, Backward)
        both = tuple(sorted((*before.parameters, *numbers)))
        self.operations[-1] = replace(before, parameters=both, retain=False)

    def _place(self, loss: Tensor) -> tuple[int, str]:
        reference, place = self._places[id(loss)]
        if reference() is not loss:
            raise KeyError(id(loss))
        return place


class _Noise(TorchDispatchMode):
    """Counts the random bytes that are drawn from explicit generators."""

    drawn = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is not None:
            self.drawn += made.nbytes
        return made
