"""Looking at a model and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from torch import nn

from samo.model import (
    ModelState,
    Trace,
    Traced,
    devices_of,
    global_generators,
    set_states,
    states_of,
)

T = TypeVar("T")


class Alone(Protocol):
    """Calls a function with the model's buffers and the random numbers as they were at first."""

    def __call__(self, evaluate: Callable[[], T], /) -> T:
        """Calls it, and undoes what it does to them."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Alone]:
    """Holds a model in evaluation mode; afterwards its modes, buffers and random numbers are back.

    In evaluation mode the loss is a function of the parameters and one example: normalisation uses
    the running statistics, which do not depend on how the data is cut into batches, and no unit is
    dropped.

    Args:
        model: The model.

    Yields:
        What is to evaluate the model: see `Alone`. Each evaluation sees the same buffers and the
        same random numbers.
    """
    kept, generators = ModelState(model), global_generators(devices_of(model))
    kept.keep()
    states = states_of(generators)
    model.eval()
    try:
        with Trace(Traced(model)) as trace:
            yield trace.rehearse
    finally:
        kept.put_back()
        set_states(generators, states)
