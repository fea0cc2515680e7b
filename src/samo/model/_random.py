"""Random numbers: those of the model's own evaluation, and the engine's own."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

States = dict[int, Any]
"""The states of some of the global generators, by their numbers."""

_WORD = 64


@dataclass(frozen=True)
class _Source:
    """One global generator: how to read its state, to set it, and to tell two states apart."""

    get: Callable[[], Any]
    set: Callable[[Any], object]
    same: Callable[[Any, Any], bool]


class Sources:
    """The global generators that an evaluation of a model may draw from.

    These are torch's on the CPU and on the model's devices, Python's ``random``, and NumPy's where
    NumPy is loaded.

    Args:
        devices: The model's devices.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._sources = [
            _Source(torch.get_rng_state, torch.set_rng_state, torch.equal),
            _Source(random.getstate, random.setstate, lambda a, b: bool(a == b)),
        ]
        for device in devices:
            if device.type not in ("cpu", "meta"):
                self._sources.append(_device_source(device))
        if (numpy := sys.modules.get("numpy")) is not None:
            self._sources.append(
                _Source(
                    numpy.random.get_state,
                    numpy.random.set_state,
                    # By value: the state may hold a normal number that waits to be drawn.
                    lambda a, b: bool(a[2:] == b[2:] and (a[1] == b[1]).all()),
                )
            )

    def get(self, which: Iterable[int] | None = None) -> States:
        """The states of the generators (of all, or of those given)."""
        which = range(len(self._sources)) if which is None else which
        return {i: self._sources[i].get() for i in which}

    def drawn(self, before: States, after: States) -> set[int]:
        """The generators whose states differ."""
        both = before.keys() & after.keys()
        return {i for i in both if not self._sources[i].same(before[i], after[i])}

    def set(self, states: States, which: Iterable[int] | None = None) -> None:
        """Puts the generators (all that there are states of, or those given) into these states."""
        for i in states if which is None else states.keys() & set(which):
            self._sources[i].set(states[i])


def _device_source(device: torch.device) -> _Source:
    module = torch.get_device_module(device)
    return _Source(
        lambda: module.get_rng_state(device),
        lambda state: module.set_rng_state(state, device),
        torch.equal,
    )


def rademacher_(flat: Tensor, generator: torch.Generator) -> Tensor:
    """Fills a vector with ±1, each with probability 1/2, from one random bit each.

    That takes a tenth of the time of ``bernoulli_``, which draws a whole number for each.

    Args:
        flat: The vector, of shape ``[n]``.
        generator: A generator of its device.

    Returns:
        The vector.
    """
    device = flat.device
    words = torch.empty(-(-len(flat) // _WORD), dtype=torch.int64, device=device)
    words.random_(-(1 << (_WORD - 1)), None, generator=generator)
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device)
    signs = (bits & 1).to(flat.dtype).mul_(2).sub_(1)  # those of each byte
    drawn = F.embedding(words.view(torch.uint8).int(), signs)
    return flat.copy_(drawn.flatten()[: len(flat)])


class Streams:
    """The engine's own generators, one a device, all from one seed.

    The global generators are neither read nor seeded.

    Args:
        seed: The seed, a non-negative integer.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._devices: dict[str, list[torch.device]] = {}
        self._states: dict[str, Tensor] = {}  # loaded, of generators that are not in use yet

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        name = self._name(device)
        if name not in self._generators:
            generator = torch.Generator(device).manual_seed(self._seed)
            if name in self._states:
                generator.set_state(self._states[name].cpu())
            self._generators[name] = generator
        return self._generators[name]

    def apart(self, rank: int) -> Streams:
        """Generators of one rank alone, which leave these in the same state on all ranks."""
        device = torch.device("cpu")
        seed = torch.randint(1 << 62, (), generator=self.on(device)).item()
        return Streams(int(seed) + rank)

    @contextmanager
    def as_global(self, devices: Iterable[torch.device]) -> Iterator[None]:
        """Lets code that draws from torch's global generators draw from these instead."""
        sources = {
            torch.device("cpu"): _Source(torch.get_rng_state, torch.set_rng_state, torch.equal)
        }
        sources |= {d: _device_source(d) for d in devices if d.type not in ("cpu", "meta")}
        outside = {device: source.get() for device, source in sources.items()}
        try:
            for device, source in sources.items():
                source.set(self.on(device).get_state())
            yield
        finally:
            for device, source in sources.items():
                self.on(device).set_state(source.get())
                source.set(outside[device])

    def _name(self, device: torch.device) -> str:
        """A name that is the same on all ranks, each of which may use another of its devices."""
        if device.type == "cpu":
            return "cpu"
        devices = self._devices.setdefault(device.type, [])
        if device not in devices:
            devices.append(device)
        return f"{device.type}:{devices.index(device)}"

    def facts(self) -> dict[str, str]:
        """What must be the same on all ranks, in words."""
        digest = hashlib.sha256()
        for name, state in sorted(self.state_dict()["states"].items()):
            digest.update(name.encode() + bytes(state.tolist()))
        return {"seed": str(self._seed), "random state": digest.hexdigest()[:8]}

    def state_dict(self) -> dict[str, Any]:
        """The seed, and the generators' states by device."""
        states = self._states | {name: g.get_state() for name, g in self._generators.items()}
        return {"seed": self._seed, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        self._seed, self._states = state["seed"], dict(state["states"])
        self._generators.clear()
