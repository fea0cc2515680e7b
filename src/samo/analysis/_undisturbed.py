"""Looking at a model and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from torch import nn

from samo.model._guarded import Registered, devices_of
from samo.model._random import Sources
from samo.model._trace import Tracer

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
    kept, sources = Registered(model), Sources(devices_of(model))
    states = sources.get()
    model.eval()
    try:
        with Tracer(model).trace() as trace:
            yield trace.rehearse
    finally:
        kept.put_back()
        sources.set(states)
