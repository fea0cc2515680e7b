"""Evaluating a model elsewhere and leaving no trace.

A step evaluates the model many times: once at its parameters (the *natural* pass), and then at
other points (*replays*). Only the natural pass may be seen afterwards. All evaluations must see
the same function, that is the same random numbers and the same buffers on entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from samo.model._graph import Reached
from samo.model._guarded import Registered, Scratch, devices_of
from samo.model._random import Sources, States
from samo.tensors._dtensor import local
from samo.tensors._vector import Vector, cut

T = TypeVar("T")

Call = tuple[nn.Module, int]
"""A module, and how many times it has been called before."""
Numbers = dict[nn.Module, list[int]]
"""The numbers of some calls of some modules, in order."""


@dataclass(frozen=True)
class Point:
    """Some parameters, with a copy of their values to come back to.

    The values are written behind autograd's back (through ``.data``): a graph that was recorded at
    the point stays usable, since its saved parameters are back, bit for bit, before it is run.

    Attributes:
        live: What is written to.
        values: The copy.
    """

    live: list[Tensor]
    values: Vector

    @classmethod
    def of(cls, parameters: Sequence[Tensor], values: Vector) -> Point:
        """The point where some parameters are, with a vector of their layout for the copy."""
        live = [local(parameter).data for parameter in parameters]
        return cls(live, values.copy_(live))

    def sections(self, counts: Sequence[int]) -> list[Point]:
        """The points of so many of the parameters at a time."""
        values = self.values.layout.sections(self.values, counts)
        return list(map(Point, cut(self.live, counts), values))


@contextmanager
def displaced(moves: Iterable[tuple[Point, Vector]], step: float = 1.0) -> Iterator[None]:
    """Holds the parameters of some points at ``values + step * direction``; puts them back.

    Args:
        moves: The points, each with its direction.
        step: The step.

    Yields:
        Nothing.
    """
    live: list[Tensor] = []
    values: list[Tensor] = []
    directions: list[Tensor] = []
    for point, direction in moves:
        live += point.live
        values += point.values.tensors
        directions += direction.tensors
    if not live:
        yield
        return
    try:
        torch._foreach_add_(live, directions, alpha=step)
        yield
    finally:
        torch._foreach_copy_(live, values)


class Tracer:
    """Opens traces of one model, and remembers which of its modules draw random numbers.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: tuple[list[bool], list[torch.device]] | None = None
        self._drawing: list[nn.Module] = []
        self._drawn: set[int] = set()
        self._separable = True

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """One natural pass and its replays; on leaving, only the natural pass is to be seen."""
        modules = list(_eager_modules(self._model))
        now = ([module.training for module in modules], devices_of(self._model))
        probing = now != self._known
        watched = modules if probing else self._drawing
        drawn = None if probing else self._drawn
        trace = Trace(self._model, watched, Sources(now[1]), drawn, separable=self._separable)
        try:
            yield trace
        finally:
            trace.close()
        self._separable = trace.separable
        if probing and trace.drawing is not None:
            self._known, self._drawing, self._drawn = now, trace.drawing, trace.drawn


class Trace:
    """One natural pass of a model, and replays of it at other points.

    To set the random number generators once, at the start of a replay, is not enough: a replay that
    evaluates one task's head would draw what the natural pass drew for the first task's. So each
    call of a module that draws gets the generators' states that its call in the natural pass had.

    That does not do where numbers are drawn for each task outside of modules of its own. Then the
    natural pass is not *separable*: only a replay that evaluates all tasks sees the same numbers.

    Args:
        model: The model.
        modules: The modules that draw random numbers, or that may.
        sources: The generators that they may draw from.
        watched: The numbers of those that they draw from; None if it is not known.
        separable: Whether the passes before this one were separable, as far as is known.

    Attributes:
        drawing: Those of the modules that drew random numbers in the natural pass.
        drawn: The generators that were drawn from.
        separable: Whether replays may evaluate some tasks only.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[nn.Module],
        sources: Sources,
        watched: set[int] | None,
        *,
        separable: bool,
    ) -> None:
        self._model = model
        self._modules = modules
        self._watched = watched
        self._scratch = Scratch(model)
        self._sources = sources
        self._before = self._sources.get()
        self._after: States | None = None
        self.drawing: list[nn.Module] | None = None
        self.separable = separable

    def natural(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The pass that counts: its buffers and its use of random numbers remain."""
        states = self._before
        starts: dict[Call, States] = {}
        ends: dict[Call, States] = {}
        made: dict[Call, list[Node]] = {}
        scattered: set[nn.Module | None] = set()

        def pass_by(inside: Call | None) -> States:
            """Notes who drew since the last call began or ended; equal states are one object."""
            nonlocal states
            now = self._sources.get(self._watched)
            if self._sources.drawn(states, now):
                scattered.add(None if inside is None else inside[0])
                states = now
            return states

        def enter(call: Call, inside: Call | None) -> None:
            starts[call] = pass_by(inside)

        def leave(call: Call, output: object) -> None:
            ends[call] = pass_by(call)
            made[call] = list(_nodes(output))

        with _calls(self._modules, enter, leave):
            losses = evaluate()
        self._kept = Registered(self._model)
        self._starts, self._ends = starts, ends
        pass_by(None)
        self._after = self._sources.get()
        self.drawn = self._sources.drawn(self._before, self._after)
        if self._watched is not None and not self.drawn <= self._watched:
            scattered.add(None)
        self._scattered = {m for m in scattered if m is None or any(True for _ in m.children())}
        drawing = {call[0] for call in ends if ends[call] is not starts[call]}
        self.drawing = [module for module in self._modules if module in drawing]
        self._numbers: Numbers = {module: [] for module in self.drawing}
        for module, number in sorted(made, key=lambda call: call[1]):
            if module in drawing:
                self._numbers[module].append(number)
        self._numbers_of = _attributed(self._numbers, made, losses)
        # A backward pass that recomputes (activation checkpointing) must not move buffers either.
        self._scratch.install()
        return losses

    def rehearse(self, evaluate: Callable[[], T]) -> T:
        """An evaluation before the natural pass, of which nothing remains."""
        kept = Registered(self._model)
        self._scratch.install()
        try:
            return evaluate()
        finally:
            kept.put_back()
            self._sources.set(self._before)

    def replay(
        self, evaluate: Callable[[Sequence[str]], dict[str, Tensor]], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """The same evaluation again, of some tasks or of all, of which nothing remains.

        Args:
            evaluate: Evaluates the losses of tasks.
            tasks: The tasks.

        Returns:
            The losses. If they are not of all tasks and `separable` is False afterwards, other
            random numbers may have been drawn than in the natural pass.
        """
        numbers = self._numbers
        if len(tasks) < len(self._numbers_of):
            parts = [self._numbers_of[task] for task in tasks]
            numbers = {m: sorted({n for part in parts for n in part[m]}) for m in numbers}

        def known(call: Call) -> Call | None:
            """The call of the natural pass that this one repeats."""
            module, number = call
            its = numbers.get(module, [])
            return (module, its[number]) if number < len(its) else None

        def enter(call: Call, _inside: Call | None) -> None:
            if (then := known(call)) is not None:
                self._sources.set(self._starts[then], self.drawn)

        def leave(call: Call, _output: object) -> None:
            if call[0] in self._scattered and (then := known(call)) is not None:
                self._compare(self._ends[then])

        # Autocast may hold low-precision copies of parameters that have moved since.
        torch.clear_autocast_cache()
        self._scratch.install()
        self._sources.set(self._before, self.drawn)
        if not self.drawn:
            return evaluate(tasks)
        with _calls(numbers, enter, leave) as counts:
            losses = evaluate(tasks)
        if None in self._scattered and self._after is not None:
            self._compare(self._after)
        if any(count != len(numbers[module]) for module, count in counts.items()):
            self.separable = False
        return losses

    def close(self) -> None:
        """Leaves buffers, flags and random numbers where the natural pass left them."""
        if self._after is None:
            return
        self._kept.put_back()
        self._sources.set(self._after)
        torch.clear_autocast_cache()

    def _compare(self, then: States) -> None:
        """Finds out whether as much was drawn by now as was in the natural pass."""
        if self._sources.drawn(then, self._sources.get(self.drawn)):
            self.separable = False


@contextmanager
def _calls(
    modules: Iterable[nn.Module],
    enter: Callable[[Call, Call | None], object],
    leave: Callable[[Call, object], object],
) -> Iterator[Counter[nn.Module]]:
    """Reports each call of the modules (and the call that it is inside of), and counts them."""
    counts: Counter[nn.Module] = Counter()
    stack: list[Call] = []
    handles: list[RemovableHandle] = []

    def before(module: nn.Module, _inputs: object) -> None:
        if torch.compiler.is_compiling():  # nothing that a compiled graph should do
            return
        call = (module, counts[module])
        counts[module] += 1
        enter(call, stack[-1] if stack else None)
        stack.append(call)

    def after(module: nn.Module, _inputs: object, output: object) -> None:
        if torch.compiler.is_compiling():
            return
        while (call := stack.pop())[0] is not module:
            pass  # a call that ended in an exception, which the closure caught
        leave(call, output)

    try:
        for module in modules:
            # The outermost of the hooks, so that what the user's own draw is inside.
            handles.append(module.register_forward_pre_hook(before, prepend=True))
            handles.append(module.register_forward_hook(after))
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _attributed(
    numbers: Numbers, made: Mapping[Call, list[Node]], losses: Mapping[str, Tensor]
) -> dict[str, Numbers]:
    """Tells which of the modules' calls are for which task, from the nodes that the calls made.

    A module that is called once is for any task. Where it is called several times (a layer that
    all heads have in common, a model that each task has inputs of its own for), the graph tells.

    Returns:
        The numbers of the calls, by task.
    """
    repeated = [module for module, calls in numbers.items() if len(calls) > 1]
    of: dict[str, Numbers] = {task: dict(numbers) for task in losses}
    for task, loss in losses.items() if repeated else ():
        nodes = Reached([loss]).nodes
        for module in repeated:
            calls = numbers[module]
            of[task][module] = [n for n in calls if not nodes.isdisjoint(made[module, n])]
    return of


def _nodes(output: object) -> Iterator[Node]:
    """The nodes of the graph that made the tensors of a module's output."""
    if isinstance(output, Tensor):
        if output.grad_fn is not None:
            yield output.grad_fn
    elif isinstance(output, Mapping):
        yield from _nodes(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _nodes(part)


def _eager_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules below one, but for compiled ones, which have no hooks or would be cut by them."""
    seen: set[nn.Module] = set()
    stack = [model]
    while stack:
        module = stack.pop()
        compiled = isinstance(module, torch.jit.ScriptModule) or module._compiled_call_impl
        if module in seen or compiled:
            continue
        seen.add(module)
        yield module
        if not isinstance(module, torch._dynamo.OptimizedModule):
            stack.extend(module.children())
