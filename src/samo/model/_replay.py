"""Replays the evaluation of a model at other points, without lasting effects.

A step evaluates the model many times: once at its parameters (the *natural* pass), and then at
other points (*replays*). Only the natural pass may change buffers, such as BatchNorm's running
statistics, and random state. All evaluations must see the same function: the same random numbers
(dropout masks), and the same buffers on entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import Parameter

from ._calls import Call, CallNumbers, attributed, nodes_of, observed
from ._random import States, drawn_between, global_generators, set_states, states_of

T = TypeVar("T")

Buffers = dict[str, Tensor | None]


@dataclass
class Traced:
    """A model, and facts observed in its natural passes.

    Attributes:
        model: The model.
        known: The flags and devices in the observed pass; None before it.
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
    """Context manager for one natural pass of a model and its replays at other points.

    Setting the random number generators once, at the start of a replay, is not enough: a replay
    that evaluates one task's head would draw the numbers of the first task's head. Therefore,
    before each call of a module that draws, the generators are set to their states at that call in
    the natural pass.

    This is not enough if numbers are drawn for a task outside its own modules. The natural pass is
    then not *separable*: only a replay that evaluates all tasks sees the same numbers.

    On exit, buffers, flags and random state are as the natural pass left them.

    Args:
        traced: The model.

    Attributes:
        separable: Whether replays may evaluate some tasks only.
        trainable: The ids of the parameters that were trainable after the natural pass, in order.
    """

    def __init__(self, traced: Traced) -> None:
        modules = list(_eager_modules(traced.model))
        self._traced = traced
        self._now = ([module.training for module in modules], devices_of(traced.model))
        self._probing = self._now != traced.known
        # The observed modules and generators: all, until it is known which draw.
        self._watched = modules if self._probing else traced.drawing
        self._sources = None if self._probing else traced.drawn
        self._generators = global_generators(self._now[1])
        self._stand_ins = stand_ins_of(traced.model)
        self._before = states_of(self._generators)
        self._after: States | None = None
        self._drawing: list[nn.Module] | None = None
        self.separable = traced.separable
        self.trainable: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._after is not None:
            put_back(self._kept)
            set_states(self._generators, self._after)
            torch.clear_autocast_cache()
            if self._probing and self._drawing is not None:
                traced = self._traced
                traced.known, traced.drawing, traced.drawn = self._now, self._drawing, self._drawn
        self._traced.separable = self.separable

    def natural(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Runs the natural pass, whose effects on buffers and random state remain."""
        states = self._before
        starts: dict[Call, States] = {}
        ends: dict[Call, States] = {}
        made: dict[Call, list[Node]] = {}
        scattered: set[nn.Module | None] = set()

        def attribute_draws(inside: Call | None) -> States:
            """Records which module drew since the last call; equal states are the same object."""
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
        self._kept = state_of(self._traced.model)
        self.trainable = [id(p) for p, trainable in self._kept.trainable if trainable]
        attribute_draws(None)
        self._after = states_of(self._generators)
        self._drawn = drawn_between(self._generators, self._before, self._after)
        if self._sources is not None and not self._drawn <= self._sources:
            scattered.add(None)
        self._scattered = {m for m in scattered if m is None or any(True for _ in m.children())}
        self._starts, self._ends = starts, ends
        self._attribute_calls(made, losses)
        # A backward pass that recomputes (activation checkpointing) must not change buffers either.
        install(self._stand_ins)
        return losses

    def rehearse(self, evaluate: Callable[[], T]) -> T:
        """Evaluates, and undoes all effects on buffers and random state."""
        kept = state_of(self._traced.model)
        install(self._stand_ins)
        try:
            return evaluate()
        finally:
            put_back(kept)
            set_states(self._generators, self._before)

    def replay(
        self, evaluate: Callable[[Sequence[str]], dict[str, Tensor]], tasks: Sequence[str]
    ) -> dict[str, Tensor]:
        """Repeats the natural evaluation for some or all tasks, without lasting effects.

        Args:
            evaluate: Evaluates the losses of tasks.
            tasks: The tasks.

        Returns:
            The losses. If tasks are missing and `separable` is False afterwards, the random numbers
            may differ from those of the natural pass.
        """
        # Autocast may have cached low-precision copies of parameters that have changed since.
        torch.clear_autocast_cache()
        install(self._stand_ins)
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
        """Records which modules drew, and which of their calls belong to which task."""
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
        """Checks that the random state here equals that of the natural pass."""
        if drawn_between(self._generators, then, states_of(self._generators, self._drawn)):
            self.separable = False


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


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Returns all modules of a model, each once, as ``model.modules()`` without building names."""
    found = {model: None}
    queue = [model]
    for module in queue:
        for child in module._modules.values():
            if child is not None and child not in found:
                found[child] = None
                queue.append(child)
    return queue


def parameters_of(modules: Iterable[nn.Module]) -> list[Parameter]:
    """Returns the parameters that are registered in modules, each once."""
    registered = (p for module in modules for p in module._parameters.values() if p is not None)
    return list({id(parameter): parameter for parameter in registered}.values())


def devices_of(model: nn.Module) -> list[torch.device]:
    """Returns the devices of a model's parameters and buffers."""
    found: set[torch.device] = set()
    for module in modules_of(model):
        for tensors in (module._parameters, module._buffers):
            found.update(tensor.device for tensor in tensors.values() if tensor is not None)
    return sorted(found, key=str)


@dataclass(frozen=True)
class ModelState:
    """The buffers and flags of a model.

    Attributes:
        buffers: The modules' dictionaries of buffers, each with its content.
        modes: The modules' ``training`` flags.
        trainable: The parameters' ``requires_grad`` flags.
    """

    buffers: list[tuple[Buffers, Buffers]]
    modes: list[tuple[nn.Module, bool]]
    trainable: list[tuple[Parameter, bool]]


def state_of(model: nn.Module) -> ModelState:
    """Returns the current buffers and flags of a model."""
    modules = modules_of(model)
    return ModelState(
        [(module._buffers, dict(module._buffers)) for module in modules],
        [(module, module.training) for module in modules],
        [(p, p.requires_grad) for p in parameters_of(modules)],
    )


def put_back(state: ModelState) -> None:
    """Restores the buffers and flags of a state."""
    for owner, buffers in state.buffers:
        _register(owner, buffers)
    for module, training in state.modes:
        if module.training != training:
            module.training = training
    for parameter, requires_grad in state.trainable:
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)


@dataclass(frozen=True)
class StandIns:
    """Copies of a model's buffers, on which replays run.

    The buffers themselves are not changed: restoring a buffer's value in place between a forward
    and its backward pass would fail autograd's version check.

    Attributes:
        buffers: The modules' dictionaries of buffers, each with the copies to register.
        copies: The copies.
        values: The values of the copies at the start of each replay.
    """

    buffers: list[tuple[Buffers, Buffers]]
    copies: list[Tensor]
    values: list[Tensor]


def stand_ins_of(model: nn.Module) -> StandIns:
    """Copies the current buffers of a model."""
    copies: dict[int, Tensor] = {}
    buffers: list[tuple[Buffers, Buffers]] = []
    for module in modules_of(model):
        entry: Buffers = {}
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
            entry[name] = None if buffer is None else copies[id(buffer)]
        buffers.append((module._buffers, entry))
    return StandIns(buffers, list(copies.values()), [copy.clone() for copy in copies.values()])


def install(stand_ins: StandIns) -> None:
    """Registers the copies in place of the buffers, with their initial values."""
    # Refreshed always, since a write through `.data` does not change a copy's version.
    if stand_ins.copies:
        copies = [copy.detach() for copy in stand_ins.copies]
        torch._foreach_copy_(copies, stand_ins.values)
    for owner, entry in stand_ins.buffers:
        _register(owner, entry)


def _register(owner: Buffers, entry: Buffers) -> None:
    for name, buffer in entry.items():
        owner[name] = buffer
    for name in owner.keys() - entry.keys():
        del owner[name]
