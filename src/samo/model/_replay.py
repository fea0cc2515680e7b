"""Replays the evaluation of a model at other points, without lasting effects.

A step evaluates the model many times: once at its parameters (the *natural* pass), and then at
other points (*replays*). Only the natural pass may change state: buffers, such as BatchNorm's
running statistics, parameters that the model writes itself, attributes, and random state. All
evaluations must see the same function: the same random numbers (dropout masks), and the same state
on entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from contextlib import nullcontext
from functools import partial
from operator import is_
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.utils import parametrize

from samo._errors import ClosureError

from ._attributes import Attributes
from ._draws import Draws, Traced
from ._journal import During
from ._parameters import Held
from ._random import States, global_generators, set_states, states_of, torch_generators
from ._state import (
    ModelState,
    devices_of,
    install,
    parameters_of,
    put_back,
    register,
    register_frozen,
    replaced,
    stand_ins_of,
    state_of,
)

T = TypeVar("T")


class Trace:
    """Context manager for one natural pass of a model and its replays at other points.

    On exit, the state of the model and of the guarded modules is as the natural pass left it:
    parameters, buffers, flags, attributes and random state.

    Replays start from the state before the natural pass. For parameters that the natural pass
    writes, its values are known if it wrote them in an earlier step as well, or if the conditions
    are new (see `Conditions`); else replays start from what the natural pass left. So they do for
    the parameters that are displaced, and for attributes if the natural pass adds modules or
    parameters.

    Without replays, only the backward passes of the natural graph have to be guarded. They may
    recompute parts of the model (activation checkpointing), which changes buffers and may draw from
    torch's generators. The random numbers of the natural pass are then not recorded.

    Args:
        traced: The model.
        replays: Whether there will be replays.

    Attributes:
        structure: The modules, and the parameters that were trainable after the natural pass.
    """

    def __init__(self, traced: Traced, *, replays: bool = True) -> None:
        state = state_of(*traced.models)
        self._traced, self._journal = traced, traced.journal
        self._devices = devices_of(state)
        self._generators = (global_generators if replays else torch_generators)(self._devices)
        self._stand_ins = stand_ins_of(state)
        self._before = states_of(self._generators)
        self._entry = state
        self._attributes: Attributes | None = None
        self._initial = Held((), ())
        self._natural = Held((), ())
        self._draws: Draws | None = None
        if replays:
            self._draws = Draws(traced, self._devices, self._generators, self._before)
            self._attributes = Attributes(state.modules)
            copied = state.parameters if self._draws.probing else traced.moving
            displaced = set(map(id, traced.displaced))
            sampled = [p for p in state.parameters if id(p) not in displaced]
            self._initial = Held(state.parameters, copied, sampled)
        self._replaces = False
        self._end: tuple[ModelState, States] | None = None
        self.structure: list[nn.Module | Parameter] = []

    def __enter__(self) -> Self:
        self._journal.note(self._restore)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self._draws is not None:
            self._draws.learn()
        self._journal.forget(self._restore)

    def _restore(self) -> None:
        """Restores what the natural pass has left."""
        if self._end is not None:
            state, generators = self._end
            self._natural.put_back()
            if self._attributes is not None:
                self._attributes.put_back()
            put_back(state)
            set_states(self._generators, generators)
            torch.clear_autocast_cache()

    @property
    def separable(self) -> bool:
        """Whether replays may evaluate some tasks only (see `Draws`)."""
        return self._draws is not None and self._draws.separable

    def natural(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Runs the natural pass, whose effects on the state remain."""
        draws, traced = self._draws, self._traced
        flag = partial(setattr, traced, "in_natural_pass")
        counts = self._journal.during(partial(flag, True), partial(flag, False))
        with self._own_cache(), counts, nullcontext() if draws is None else draws.recorded():
            losses = evaluate()
        kept, after = state_of(*traced.models), states_of(self._generators)
        self.structure = state_of(traced.model).structure if traced.guards else kept.structure
        if draws is not None:
            self._settle(kept, draws)
            draws.settle(after, losses)
        self._end = kept, after
        # A backward pass that recomputes (activation checkpointing) must not change buffers either.
        install(self._stand_ins)
        return losses

    def _settle(self, state: ModelState, draws: Draws) -> None:
        """Finds what the natural pass has moved besides buffers."""
        assert self._attributes is not None
        self._note(self._initial.moved())
        moving = self._traced.moving
        # While the conditions are new, all parameters are held: they may move in replays only, as
        # the copy of a model does that follows it, as long as they are equal.
        self._natural = Held(state.parameters, state.parameters if draws.probing else moving)
        self._initial = self._initial.only(moving)
        before, after = self._entry.parameters, state.parameters
        self._replaces = len(before) != len(after) or not all(map(is_, before, after))
        if not self._replaces or len(self._entry.structure) == len(state.structure):
            self._attributes.settle()
        else:
            self._attributes = Attributes(state.modules)

    def _note(self, moved: Sequence[Parameter]) -> None:
        """Adds to the parameters that are known to move."""
        moving = {id(parameter): parameter for parameter in [*self._traced.moving, *moved]}
        self._traced.moving = list(moving.values())

    def away(self, displaced: Sequence[Parameter]) -> During:
        """Returns a context for replays at other points, and their backward passes.

        Parameters that the model writes start from what they were before the natural pass, and on
        exit are as it left them.

        Args:
            displaced: The parameters that are displaced, which start from what it left.
        """
        self._traced.displaced = displaced
        skipped = set(map(id, displaced))
        if self._draws is not None and self._draws.probing:
            held = [p for p in self._natural.parameters if id(p) not in skipped]
            self._natural = self._natural.only([*held, *self._traced.moving])
        return self._journal.during(partial(self._leave, skipped), partial(self._return, skipped))

    def _leave(self, displaced: Set[int]) -> None:
        self._initial.install(displaced)
        if self._replaces:
            register_frozen(self._entry)

    def _return(self, displaced: Set[int]) -> None:
        if self._draws is not None and self._draws.probing:
            self._note([p for p in self._natural.moved() if id(p) not in displaced])
        self._natural.put_back()
        if self._replaces and self._end is not None:
            register(self._end[0])

    def left(self) -> Held:
        """Returns the parameters that the replay has written, as it left them."""
        moved = {id(p): p for p in [*self._traced.moving, *self._natural.written()]}
        return Held(moved.values(), moved.values())

    def rehearse(self, evaluate: Callable[[], T]) -> T:
        """Evaluates in the state before the natural pass, and undoes all effects."""
        kept, generators = state_of(*self._traced.models), global_generators(self._devices)
        states = states_of(generators)
        held, attributes = Held(kept.parameters, kept.parameters), Attributes(kept.modules)

        def prepare() -> None:
            attributes.install_all()
            self._start()
            set_states(self._generators, self._before)

        def restore() -> None:
            held.put_back()
            attributes.undo()
            put_back(kept)
            set_states(generators, states)

        with self._journal.during(prepare, restore), self._own_cache():
            return evaluate()

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

        Raises:
            ClosureError: If the evaluation replaces trainable parameters.
        """
        # Autocast may have cached low-precision copies of parameters that have changed since.
        torch.clear_autocast_cache()
        if self._draws is None:
            return self.rehearse(partial(evaluate, tasks))
        self._start()
        with self._own_cache():
            losses = self._draws.repeated(evaluate, tasks)
        if self._end is not None and (names := self._replaced(self._end[0])):
            raise ClosureError(
                f"Each evaluation registers a new parameter in place of {names[0]!r}, to which no "
                f"perturbation and no gradient belongs: write to the parameter instead, under "
                f"torch.no_grad()."
            )
        return losses

    def _replaced(self, state: ModelState) -> list[str]:
        """Returns the names of trainable parameters in whose place others are registered now."""
        now = parameters_of(state.modules)
        if len(now) == len(state.parameters) and all(map(is_, now, state.parameters)):
            return []
        self._replaces = True
        return replaced(state)

    def _start(self) -> None:
        """Installs the state before the natural pass, but for parameters."""
        install(self._stand_ins)
        if self._attributes is not None:
            self._attributes.install()

    def _own_cache(self) -> During:
        """Gives an evaluation a cache of its own for ``torch.nn.utils.parametrize.cached``."""
        keep = partial(setattr, parametrize, "_cache")
        return self._journal.during(partial(keep, {}), partial(keep, parametrize._cache))
