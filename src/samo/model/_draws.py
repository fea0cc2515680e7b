"""Common random numbers: what modules draw in the natural pass is repeated in its replays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import is_
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import Parameter

from ._calls import Call, CallNumbers, Observer, attributed, nodes_of
from ._journal import Journal
from ._random import GlobalGenerator, States, drawn_between, set_states, states_of

T = TypeVar("T")


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


@dataclass(frozen=True)
class Known:
    """What was observed in a natural pass.

    Attributes:
        conditions: The conditions of the pass.
        drawing: The modules that drew random numbers.
        drawn: The global generators that were drawn from.
    """

    conditions: Conditions
    drawing: list[nn.Module]
    drawn: set[int]


@dataclass
class Traced:
    """A model, and facts observed in its natural passes.

    Attributes:
        model: The model.
        guards: Modules outside of the model that closures evaluate.
        known: What was observed in a pass; None before it.
        separable: Whether replays may evaluate some tasks only (see `Draws`).
        journal: What a step has changed.
        moving: The parameters that natural passes write.
        displaced: The parameters that were last displaced for replays.
        differentiates: Whether closures differentiate, so that all evaluations need graphs.
        in_natural_pass: Whether the natural pass is running.
    """

    model: nn.Module
    guards: Sequence[nn.Module] = ()
    known: Known | None = None
    separable: bool = True
    journal: Journal = field(default_factory=Journal)
    moving: list[Parameter] = field(default_factory=list)
    displaced: Sequence[Parameter] = ()
    differentiates: bool = False
    in_natural_pass: bool = False

    @property
    def models(self) -> list[nn.Module]:
        """The model and the guarded modules."""
        return [self.model, *self.guards]


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
        probing: Whether the conditions are new, so that all has to be observed.
    """

    def __init__(
        self,
        traced: Traced,
        devices: list[torch.device],
        generators: Sequence[GlobalGenerator],
        before: States,
    ) -> None:
        modules = list(_eager_modules(traced.models))
        self._traced = traced
        self._generators = generators
        self._before = before
        self._now = Conditions(modules, [module.training for module in modules], devices)
        known = traced.known
        if known is not None and not _same(self._now, known.conditions):
            known = None
        self.probing = known is None
        # The observed modules and generators: all, until it is known which draw.
        self._watched = modules if known is None else known.drawing
        self._sources = set(before) if known is None else known.drawn
        self._states = before
        self._starts: dict[Call, States] = {}
        self._ends: dict[Call, States] = {}
        self._made: dict[Call, list[Node]] = {}
        self._scattered: set[int | None] = set()
        self._after: States = {}
        self._drawn: set[int] = set()
        self.separable = traced.separable

    def recorded(self) -> AbstractContextManager[None]:
        """Returns the context in which it is recorded what the modules draw."""

        def enter(call: Call, inside: Call | None) -> None:
            self._starts[call] = self._attribute(inside)

        def leave(call: Call, output: object) -> None:
            self._ends[call] = self._attribute(call)
            self._made[call] = list(nodes_of(output))

        if not self._watched:
            return nullcontext()
        return Observer(self._watched, enter, leave).observing(self._traced.journal)

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
        leaves = {id(m) for m in self._watched if next(m.children(), None) is None}
        self._scattered -= leaves
        drawing = {call[0] for call in self._ends if self._ends[call] is not self._starts[call]}
        self._drawing = [module for module in self._watched if id(module) in drawing]
        self._numbers: CallNumbers = {id(module): [] for module in self._drawing}
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

    def repeated(self, evaluate: Callable[[Sequence[str]], T], tasks: Sequence[str]) -> T:
        """Evaluates some tasks such that they draw the same numbers."""
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

        observer = Observer(self._drawing, enter, leave)
        with observer.observing(self._traced.journal):
            found = evaluate(tasks)
        if None in self._scattered:
            self._compare(self._after)
        if any(count != len(numbers[module]) for module, count in observer.counts.items()):
            self.separable = False
        return found

    def learn(self) -> None:
        """Records in `Traced` what the next pass need not find out again."""
        traced = self._traced
        if self.probing and self._after:
            traced.known = Known(self._now, self._drawing, self._drawn)
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


def _eager_modules(models: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """Yields the modules that can have hooks: not compiled, nor inside compiled ones."""
    seen: set[int] = set()
    stack = list(models)
    while stack:
        module = stack.pop()
        compiled = isinstance(module, torch.jit.ScriptModule) or module._compiled_call_impl
        if id(module) in seen or compiled:
            continue
        seen.add(id(module))
        yield module
        if not isinstance(module, torch._dynamo.OptimizedModule):
            stack.extend(module.children())
