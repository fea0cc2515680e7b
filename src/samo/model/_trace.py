"""Evaluates a model at other points without leaving a trace.

A step evaluates the model many times: once at its parameters (the *natural* pass), and then at
other points (*replays*). Afterwards only the natural pass may be visible. All evaluations must see
the same function: the same random numbers, and the same buffers on entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from samo.tensors import Vector, cut, shards

from ._calls import Call, CallNumbers, attributed, nodes_of, observed
from ._random import States, drawn_between, global_generators, set_states, states_of
from ._state import ModelState, devices_of

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """Some parameters, with a copy of their values to return to.

    The values are written through ``.data``, unseen by autograd: a graph that was recorded at the
    point stays usable, since its saved parameters are restored bit for bit before it runs.

    Attributes:
        live: The tensors that are written to.
        values: The copy.
    """

    live: list[Tensor]
    values: Vector


def point_of(parameters: Sequence[Tensor], values: Vector) -> Point:
    """Returns the point at which parameters are now; ``values``, of their layout, gets the copy."""
    live = [shard.data for shard in shards(parameters)]
    return Point(live, values.copy_(live))


def split(point: Point, counts: Sequence[int]) -> list[Point]:
    """Splits a point into the points of consecutive parameters, ``counts`` at a time."""
    values = point.values.layout.sections(point.values, counts)
    return list(map(Point, cut(point.live, counts), values))


@contextmanager
def displaced(moves: Iterable[tuple[Point, Vector]], step: float = 1.0) -> Iterator[None]:
    """Moves parameters to ``values + step * direction``, and restores them on exit.

    Args:
        moves: Points, each with its direction.
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


@dataclass
class Traced:
    """A model, and what its natural passes have shown.

    Attributes:
        model: The model.
        known: The flags and devices of the pass that showed it; None before.
        drawing: The modules that drew random numbers.
        drawn: The global generators that were drawn from.
        separable: Whether replays may evaluate some tasks only (see `Trace`).
    """

    model: nn.Module
    known: tuple[list[bool], list[torch.device]] | None = None
    drawing: list[nn.Module] = field(default_factory=list)
    drawn: set[int] = field(default_factory=set)
    separable: bool = True


class Trace:
    """One natural pass of a model, and replays of it at other points: a context manager.

    Setting the random number generators once, at the start of a replay, is not enough: a replay
    that evaluates one task's head would draw what the natural pass drew for the first task's. So
    each call of a module that draws gets the generators' states that its call in the natural pass
    had.

    That is not enough either if numbers are drawn for each task outside of modules of its own. The
    natural pass is then not *separable*: only a replay that evaluates all tasks sees the same
    numbers.

    On exit, buffers, flags and random state are where the natural pass left them.

    Args:
        traced: The model.

    Attributes:
        separable: Whether replays may evaluate some tasks only.
        trainable: The ids of the parameters that were trainable after the natural pass.
    """

    def __init__(self, traced: Traced) -> None:
        modules = list(_eager_modules(traced.model))
        self._traced = traced
        self._now = ([module.training for module in modules], devices_of(traced.model))
        self._probing = self._now != traced.known
        # Of the modules and generators, those that are watched: all, until it is known which draw.
        self._watched = modules if self._probing else traced.drawing
        self._sources = None if self._probing else traced.drawn
        self._generators = global_generators(self._now[1])
        self._state = ModelState(traced.model)
        self._before = states_of(self._generators)
        self._after: States | None = None
        self._drawing: list[nn.Module] | None = None
        self.separable = traced.separable
        self.trainable: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._after is not None:
            self._state.put_back()
            set_states(self._generators, self._after)
            torch.clear_autocast_cache()
            if self._probing and self._drawing is not None:
                traced = self._traced
                traced.known, traced.drawing, traced.drawn = self._now, self._drawing, self._drawn
        self._traced.separable = self.separable

    def natural(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Runs the pass that counts: its buffers and its use of random numbers remain."""
        states = self._before
        starts: dict[Call, States] = {}
        ends: dict[Call, States] = {}
        made: dict[Call, list[Node]] = {}
        scattered: set[nn.Module | None] = set()

        def attribute_draws(inside: Call | None) -> States:
            """Records who drew since the last call; equal states are one object."""
            nonlocal states
            now = states_of(self._generators, self._sources)
            if drawn_between(self._generators, states, now):
                scattered.add(None if inside is None else inside[0])
                states = now
            return states

        def enter(call: Call, inside: Call | None) -> None:
            starts[call] = attribute_draws(inside)

        def leave(call: Call, output: object) -> None:
            ends[call] = attribute_draws(call)
            made[call] = list(nodes_of(output))

        if self._watched:
            with observed(self._watched, enter, leave):
                losses = evaluate()
        else:
            losses = evaluate()
        self.trainable = self._state.keep()
        attribute_draws(None)
        self._after = states_of(self._generators)
        self._drawn = drawn_between(self._generators, self._before, self._after)
        if self._sources is not None and not self._drawn <= self._sources:
            scattered.add(None)
        self._scattered = {m for m in scattered if m is None or any(True for _ in m.children())}
        self._starts, self._ends = starts, ends
        self._attribute_calls(made, losses)
        # A backward pass that recomputes (activation checkpointing) must not move buffers either.
        self._state.install()
        return losses

    def rehearse(self, evaluate: Callable[[], T]) -> T:
        """Evaluates before the natural pass, and undoes what this does to buffers and random state.

        Args:
            evaluate: The evaluation.

        Returns:
            Its result.
        """
        state = self._state
        state.keep()
        state.install()
        try:
            return evaluate()
        finally:
            state.put_back()
            set_states(self._generators, self._before)

    def replay(
        self, evaluate: Callable[[Sequence[str]], dict[str, Tensor]], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Repeats the natural evaluation for some tasks or all; nothing of it remains.

        Args:
            evaluate: Evaluates the losses of tasks.
            tasks: The tasks.

        Returns:
            The losses. If they are not of all tasks and `separable` is False afterwards, the random
            numbers may differ from those of the natural pass.
        """
        # Autocast may hold low-precision copies of parameters that have moved since.
        torch.clear_autocast_cache()
        self._state.install()
        set_states(self._generators, self._before, self._drawn)
        if not self._drawn:
            return evaluate(tasks)
        numbers = self._numbers
        if len(tasks) < len(self._numbers_of):
            parts = [self._numbers_of[task] for task in tasks]
            numbers = {m: sorted({n for part in parts for n in part[m]}) for m in numbers}

        def repeated(call: Call) -> Call | None:
            """Returns the call of the natural pass that this one repeats."""
            module, number = call
            its = numbers.get(module, [])
            return (module, its[number]) if number < len(its) else None

        def enter(call: Call, _inside: Call | None) -> None:
            if (then := repeated(call)) is not None:
                set_states(self._generators, self._starts[then], self._drawn)

        def leave(call: Call, _output: object) -> None:
            if call[0] in self._scattered and (then := repeated(call)) is not None:
                self._compare(self._ends[then])

        with observed(numbers, enter, leave) as counts:
            losses = evaluate(tasks)
        if None in self._scattered and self._after is not None:
            self._compare(self._after)
        if any(count != len(numbers[module]) for module, count in counts.items()):
            self.separable = False
        return losses

    def _attribute_calls(
        self, made: Mapping[Call, list[Node]], losses: Mapping[str, Tensor]
    ) -> None:
        """Records which modules drew, and which of their calls are for which task."""
        drawing = {call[0] for call in self._ends if self._ends[call] is not self._starts[call]}
        self._drawing = [module for module in self._watched if module in drawing]
        self._numbers: CallNumbers = {module: [] for module in self._drawing}
        for module, number in sorted(made, key=lambda call: call[1]):
            if module in drawing:
                self._numbers[module].append(number)
        self._numbers_of = (
            attributed(self._numbers, made, losses)
            if self._drawing
            else {task: {} for task in losses}
        )

    def _compare(self, then: States) -> None:
        """Checks that as much was drawn up to here as in the natural pass."""
        if drawn_between(self._generators, then, states_of(self._generators, self._drawn)):
            self.separable = False


def _eager_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules of a model that can have hooks: none that are compiled, none inside."""
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
