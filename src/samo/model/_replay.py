"""Replays the evaluation of a model at other points, without lasting effects.

A step evaluates the model many times: once at its parameters (the *natural* pass), and then at
other points (*replays*). Only the natural pass may change buffers, such as BatchNorm's running
statistics, and random state. All evaluations must see the same function: the same random numbers
(dropout masks), and the same buffers on entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ._draws import Draws, Traced
from ._random import States, global_generators, set_states, states_of, torch_generators
from ._state import devices_of, install, put_back, stand_ins_of, state_of

T = TypeVar("T")


class Trace:
    """Context manager for one natural pass of a model and its replays at other points.

    On exit, buffers, flags and random state are as the natural pass left them.

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
        state = state_of(traced.model)
        self._traced = traced
        self._devices = devices_of(state)
        self._generators = (global_generators if replays else torch_generators)(self._devices)
        self._stand_ins = stand_ins_of(state)
        self._before = states_of(self._generators)
        self._draws: Draws | None = None
        if replays:
            self._draws = Draws(traced, self._devices, self._generators, self._before)
        self._after: States | None = None
        self.structure: list[nn.Module | Parameter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._after is not None:
            put_back(self._kept)
            set_states(self._generators, self._after)
            torch.clear_autocast_cache()
        if self._draws is not None:
            self._draws.learn()

    @property
    def separable(self) -> bool:
        """Whether replays may evaluate some tasks only (see `Draws`)."""
        return self._draws is not None and self._draws.separable

    def natural(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Runs the natural pass, whose effects on buffers and random state remain."""
        draws = self._draws
        with nullcontext() if draws is None else draws.recorded():
            losses = evaluate()
        self._kept = state_of(self._traced.model)
        self._after = states_of(self._generators)
        self.structure = self._kept.structure
        if draws is not None:
            draws.settle(self._after, losses)
        # A backward pass that recomputes (activation checkpointing) must not change buffers either.
        install(self._stand_ins)
        return losses

    def rehearse(self, evaluate: Callable[[], T]) -> T:
        """Evaluates in the state before the natural pass, and undoes all effects."""
        kept, generators = state_of(self._traced.model), global_generators(self._devices)
        states = states_of(generators)
        install(self._stand_ins)
        set_states(self._generators, self._before)
        try:
            return evaluate()
        finally:
            put_back(kept)
            set_states(generators, states)

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
        if self._draws is None:
            return self.rehearse(partial(evaluate, tasks))
        install(self._stand_ins)
        with self._draws.repeated(tasks):
            return evaluate(tasks)
