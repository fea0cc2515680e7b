"""Random numbers: the global generators that a model draws from, and the engine's own."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ._journal import Journal

T = TypeVar("T")

States = dict[int, Any]
"""The states of global generators, by their index in the list."""

_WORD = 64


@dataclass(frozen=True)
class GlobalGenerator:
    """A global generator: its name, and functions that read, set and compare its state."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    same: Callable[[Any, Any], bool]


def global_generators(devices: Iterable[torch.device]) -> list[GlobalGenerator]:
    """Lists the global generators that an evaluation of a model may draw from.

    Args:
        devices: The model's devices.

    Returns:
        The generators of torch on the CPU and on the devices, of Python's ``random``, and of NumPy
        if it is imported.
    """
    generators = [
        *torch_generators(devices),
        GlobalGenerator("random", random.getstate, random.setstate, lambda a, b: bool(a == b)),
    ]
    if (numpy := sys.modules.get("numpy")) is not None:
        generators.append(
            GlobalGenerator(
                "numpy.random",
                numpy.random.get_state,
                numpy.random.set_state,
                # By value, including a cached second normal number.
                lambda a, b: bool(a[2:] == b[2:] and (a[1] == b[1]).all()),
            )
        )
    return generators


def torch_generators(devices: Iterable[torch.device]) -> list[GlobalGenerator]:
    """Lists torch's global generators, on the CPU and on the devices."""
    return [_CPU, *(_on(device) for device in devices if device.type not in ("cpu", "meta"))]


def states_of(generators: Sequence[GlobalGenerator], which: Iterable[int] | None = None) -> States:
    """Returns the states of the generators (of all, or of ``which``)."""
    which = range(len(generators)) if which is None else which
    return {i: generators[i].get() for i in which}


def drawn_between(generators: Sequence[GlobalGenerator], before: States, after: States) -> set[int]:
    """Returns the indices of the generators whose states differ."""
    both = before.keys() & after.keys()
    return {i for i in both if not generators[i].same(before[i], after[i])}


def set_states(
    generators: Sequence[GlobalGenerator], states: States, which: Iterable[int] | None = None
) -> None:
    """Sets the states of generators (of all in ``states``, or only of ``which``)."""
    for i in states if which is None else states.keys() & set(which):
        generators[i].set(states[i])


_CPU = GlobalGenerator("torch's generator", torch.get_rng_state, torch.set_rng_state, torch.equal)


def _on(device: torch.device) -> GlobalGenerator:
    module = torch.get_device_module(device)
    return GlobalGenerator(
        f"torch's generator on {device}",
        lambda: module.get_rng_state(device),
        lambda state: module.set_rng_state(state, device),
        torch.equal,
    )


def rademacher_(flat: Tensor, generator: torch.Generator) -> Tensor:
    """Fills a vector with ±1, each with probability 1/2, from one random bit each.

    This takes a tenth of the time of ``bernoulli_``, which draws an integer for each element.

    Args:
        flat: The vector, of shape ``[n]``.
        generator: A generator on its device.

    Returns:
        The vector.
    """
    device = flat.device
    words = torch.empty(-(-len(flat) // _WORD), dtype=torch.int64, device=device)
    words.random_(-(1 << (_WORD - 1)), None, generator=generator)
    bits = torch.arange(256, device=device).unsqueeze(1) >> torch.arange(8, device=device)
    signs = (bits & 1).to(flat.dtype).mul_(2).sub_(1)  # the signs for each byte
    drawn = F.embedding(words.view(torch.uint8).int(), signs)
    return flat.copy_(drawn.flatten()[: len(flat)])


class Streams:
    """The engine's own generators, one per device, seeded with the same seed.

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
        """Returns the generator of a device."""
        name = self._name(device)
        if name not in self._generators:
            generator = torch.Generator(device).manual_seed(self._seed)
            if name in self._states:
                generator.set_state(self._states[name].cpu())
            self._generators[name] = generator
        return self._generators[name]

    def apart(self, rank: int) -> Streams:
        """Returns generators for one rank only; ``self`` stays in the same state on all ranks."""
        device = torch.device("cpu")
        seed = torch.randint(1 << 62, (), generator=self.on(device)).item()
        return Streams(int(seed) + rank)

    def as_global(
        self, devices: Iterable[torch.device], draw: Callable[[], T], journal: Journal
    ) -> T:
        """Calls a function, for which torch's global generators draw from these streams."""
        generators = {torch.device("cpu"): _CPU}
        generators |= {d: _on(d) for d in devices if d.type not in ("cpu", "meta")}
        outside = {device: generator.get() for device, generator in generators.items()}

        def take_over() -> None:
            for device, generator in generators.items():
                generator.set(self.on(device).get_state())

        def put_back() -> None:
            for device, generator in generators.items():
                generator.set(outside[device])

        with journal.during(take_over, put_back):
            found = draw()
            for device, generator in generators.items():
                self.on(device).set_state(generator.get())
            return found

    def _name(self, device: torch.device) -> str:
        """Returns a name that is the same on all ranks, which may use different devices."""
        if device.type == "cpu":
            return "cpu"
        devices = self._devices.setdefault(device.type, [])
        if device not in devices:
            devices.append(device)
        return f"{device.type}:{devices.index(device)}"

    def facts(self) -> dict[str, str]:
        """Returns descriptions of the seed and the states, which must be equal on all ranks."""
        digest = hashlib.sha256()
        for name, state in sorted(self.state_dict()["states"].items()):
            digest.update(name.encode() + bytes(state.tolist()))
        return {"seed": str(self._seed), "random state": digest.hexdigest()[:8]}

    def state_dict(self) -> dict[str, Any]:
        """Returns the seed, and the generators' states by device."""
        states = self._states | {name: g.get_state() for name, g in self._generators.items()}
        return {"seed": self._seed, "states": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        self._seed, self._states = state["seed"], dict(state["states"])
        self._generators.clear()
