"""Evaluates a model and restores it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from torch import nn

from samo.model import (
    Trace,
    Traced,
    devices_of,
    global_generators,
    put_back,
    set_states,
    state_of,
    states_of,
)

T = TypeVar("T")


class Isolated(Protocol):
    """Calls a function with the initial buffers of the model and the initial random state."""

    def __call__(self, evaluate: Callable[[], T], /) -> T:
        """Calls the function, and restores both afterwards."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Isolated]:
    """Sets a model to evaluation mode; restores modes, buffers and random state afterwards.

    In evaluation mode, the loss of an example depends on the parameters alone: normalisation uses
    the running statistics, which do not depend on how the data is divided into batches, and dropout
    is off.

    Yields:
        A function that evaluates the model, see `Isolated`: each evaluation sees the same buffers
        and random numbers.
    """
    kept = state_of(model)
    generators = global_generators(devices_of(kept))
    states = states_of(generators)
    model.eval()
    try:
        with Trace(Traced(model)) as trace:
            yield trace.rehearse
    finally:
        put_back(kept)
        set_states(generators, states)
