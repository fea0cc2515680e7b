"""Autocast around a whole step is for the closures, not for the methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from samo.model._closure import Losses
from samo.model._random import Streams


@contextmanager
def confined(closures: Sequence[Losses], device_types: Iterable[str]) -> Iterator[list[Losses]]:
    """Switches autocast off, but for the closures, which are called as it is set around this.

    Autocast is meant for forward passes. The backward passes take their precision from these, and
    the arithmetic on gradients is not for half precision at all: in float16 they would overflow.

    Args:
        closures: The closures of a step.
        device_types: The types of the devices in use.

    Yields:
        The closures to call instead.
    """
    available = filter(torch.amp.is_autocast_available, device_types)
    around = [(d, torch.get_autocast_dtype(d)) for d in available if torch.is_autocast_enabled(d)]
    caching = torch.is_autocast_cache_enabled()

    def inside(closure: Losses) -> Losses:
        def evaluate(tasks: Sequence[str]) -> Mapping[str, Tensor]:
            with ExitStack() as stack:
                for device_type, dtype in around:
                    region = torch.autocast(device_type, dtype, cache_enabled=caching)
                    stack.enter_context(region)
                return closure(tasks)

        return evaluate

    with ExitStack() as stack:
        for device_type, _ in around:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield [inside(closure) for closure in closures] if around else list(closures)


@contextmanager
def undisturbed(streams: Streams, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Where methods run: with the engine's random numbers, and without a user's autocast.

    Args:
        streams: The engine's generators.
        tensors: What the method gets.

    Yields:
        Nothing.
    """
    devices = {tensor.device for tensor in tensors}
    with ExitStack() as stack:
        stack.enter_context(streams.as_global(devices))
        for kind in {"cpu", *(device.type for device in devices)}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
