"""Common random numbers: what modules draw in the natural pass is repeated in its replays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import is_

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ._calls import Call, CallNumbers, attributed, nodes_of, observed
from ._random import GlobalGenerator, States, drawn_between, set_states, states_of


@dataclass(frozen=True)
class Conditions:
    """Conditions under which a model draws from the same generators in the same modules.

    Attributes:
        modules: The modules that can have hooks.
        modes: Their ``training`` flags.
        devices: The devices of the model.
    """

    modules: list[nn.Module]
    modes: list[bool]
    devices: list[torch.device]


@dataclass
class Traced:
    """A model, and facts observed in its natural passes.

    Attributes:
        model: The model.
        known: The conditions of the observed pass; None before it.
        drawing: The modules that drew random numbers.
        drawn: The global generators that were drawn from.
        separable: Whether replays may evaluate some tasks only (see `Draws`).
    """

    model: nn.Module
    known: Conditions | None = None
    drawing: list[nn.Module] = field(default_factory=list)
    drawn: set[int] = field(default_factory=set)
    separable: bool = True


class Draws:
    """The random numbers that the modules of a model draw in one natural pass.

    Setting the random number generators once, at the start of a replay, is not enough: a replay
    that evaluates one task's head would draw the numbers of the first task's head. Therefore,
    before each call of a module that draws, the generators are set to their states at that call in
    the natural pass.

    This is not enough if numbers are drawn for a task outside its own modules. The natural pass is
    then not *separable*: only a replay that evaluates all tasks sees the same numbers.

    Args:
        traced: The model.
        devices: Its devices.
        generators: The global generators.
        before: Their states before the natural pass.

    Attributes:
        separable: Whether replays may evaluate some tasks only.
    """

    def __init__(
        self,
        traced: Traced,
        devices: list[torch.device],
        generators: Sequence[GlobalGenerator],
        before: States,
    ) -> None:
        modules = list(_eager_modules(traced.model))
        self._traced = traced
        self._generators = generators
        self._before = before
        self._now = Conditions(modules, [module.training for module in modules], devices)
        self._probing = traced.known is None or not _same(self._now, traced.known)
        # The observed modules and generators: all, until it is known which draw.
        self._watched = modules if self._probing else traced.drawing
        self._sources = set(before) if self._probing else traced.drawn
        self._states = before
        self._starts: dict[Call, States] = {}
        self._ends: dict[Call, States] = {}
        self._made: dict[Call, list[Node]] = {}
        self._scattered: set[nn.Module | None] = set()
        self._after: States = {}
        self._drawn: set[int] = set()
        self.separable = traced.separable

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records what the modules draw."""

        def enter(call: Call, inside: Call | None) -> None:
            self._starts[call] = self._attribute(inside)

        def leave(call: Call, output: object) -> None:
            self._ends[call] = self._attribute(call)
            self._made[call] = list(nodes_of(output))

        if not self._watched:
            yield
            return
        with observed(self._watched, enter, leave):
            yield

    def settle(self, after: States, losses: Mapping[str, Tensor]) -> None:
        """Determines what was drawn by which module for which task.

        Args:
            after: The states of the generators after the natural pass.
            losses: The losses by task, with their graphs.
        """
        self._attribute(None, {i: after[i] for i in self._sources})
        self._drawn = drawn_between(self._generators, self._before, after)
        if not self._drawn <= self._sources:
            self._scattered.add(None)
        self._scattered = {m for m in self._scattered if m is None or any(m.children())}
        drawing = {call[0] for call in self._ends if self._ends[call] is not self._starts[call]}
        self._drawing = [module for module in self._watched if module in drawing]
        self._numbers: CallNumbers = {module: [] for module in self._drawing}
        for module, number in sorted(self._made, key=lambda call: call[1]):
            if module in drawing:
                self._numbers[module].append(number)
        self._numbers_of = (
            attributed(self._numbers, self._made, losses)
            if self._drawing
            else {task: {} for task in losses}
        )
        self._made.clear()  # the nodes would keep the graph alive
        self._after = after

    @contextmanager
    def repeated(self, tasks: Sequence[str]) -> Iterator[None]:
        """Sets the generators such that an evaluation of some tasks draws the same numbers."""
        set_states(self._generators, self._before, self._drawn)
        if not self._drawn:
            yield
            return
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
            yield
        if None in self._scattered:
            self._compare(self._after)
        if any(count != len(numbers[module]) for module, count in counts.items()):
            self.separable = False

    def learn(self) -> None:
        """Records in `Traced` what the next pass need not find out again."""
        traced = self._traced
        if self._probing and self._after:
            traced.known, traced.drawing, traced.drawn = self._now, self._drawing, self._drawn
        traced.separable = self.separable

    def _attribute(self, inside: Call | None, now: States | None = None) -> States:
        """Records which module drew since the last call; equal states are the same object."""
        if now is None:
            now = states_of(self._generators, self._sources)
        if drawn_between(self._generators, self._states, now):
            self._scattered.add(None if inside is None else inside[0])
            self._states = now
        return self._states

    def _compare(self, then: States) -> None:
        """Checks that the random state here equals that of the natural pass."""
        if drawn_between(self._generators, then, states_of(self._generators, self._drawn)):
            self.separable = False


def _same(one: Conditions, other: Conditions) -> bool:
    flags = one.modes == other.modes and one.devices == other.devices
    return flags and all(map(is_, one.modules, other.modules))


def _eager_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules of a model that can have hooks: not compiled, nor inside compiled ones."""
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
