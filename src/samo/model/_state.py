"""The state of a model that an evaluation may change: its buffers and flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import is_, is_not
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

Buffers = dict[str, Tensor | None]
V = TypeVar("V")


def modules_of(*models: nn.Module) -> list[nn.Module]:
    """Returns all modules of models, each once, as ``model.modules()`` without building names."""
    queue = list({id(model): model for model in models}.values())
    found = set(map(id, queue))  # not by their hashes, which may depend on their state
    for module in queue:
        for child in module._modules.values():
            if child is not None and id(child) not in found:
                found.add(id(child))
                queue.append(child)
    return queue


def parameters_of(modules: Iterable[nn.Module]) -> list[Parameter]:
    """Returns the parameters that are registered in modules, each once."""
    registered = (p for module in modules for p in module._parameters.values() if p is not None)
    return list({id(parameter): parameter for parameter in registered}.values())


@dataclass(frozen=True)
class ModelState:
    """The modules and parameters of models, with their buffers and flags at one moment.

    Attributes:
        modules: The modules, each once.
        parameters: The parameters, each once.
        registered: The parameters of each module, by name.
        buffers: The buffers of each module, by name.
        modes: The modules' ``training`` flags.
        trainable: The parameters' ``requires_grad`` flags.
    """

    modules: list[nn.Module]
    parameters: list[Parameter]
    registered: list[dict[str, Parameter | None]]
    buffers: list[Buffers]
    modes: list[bool]
    trainable: list[bool]

    @property
    def structure(self) -> list[nn.Module | Parameter]:
        """The modules and the trainable parameters."""
        flags = zip(self.parameters, self.trainable, strict=True)
        return [*self.modules, *(parameter for parameter, trainable in flags if trainable)]


def state_of(*models: nn.Module) -> ModelState:
    """Returns the current state of models."""
    modules = modules_of(*models)
    parameters = parameters_of(modules)
    return ModelState(
        modules,
        parameters,
        [dict(module._parameters) for module in modules],
        [dict(module._buffers) for module in modules],
        [module.training for module in modules],
        [parameter.requires_grad for parameter in parameters],
    )


def devices_of(state: ModelState) -> list[torch.device]:
    """Returns the devices of the parameters and buffers."""
    found = {parameter.device for parameter in state.parameters}
    for buffers in state.buffers:
        found.update(buffer.device for buffer in buffers.values() if buffer is not None)
    return sorted(found, key=str)


def put_back(state: ModelState) -> None:
    """Restores what is registered, and the flags of a state."""
    register(state)
    for module, buffers, training in zip(state.modules, state.buffers, state.modes, strict=True):
        if buffers or module._buffers:
            _register(module._buffers, buffers)
        if module.training != training:
            module.training = training
    for parameter, requires_grad in zip(state.parameters, state.trainable, strict=True):
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)


def replaced(state: ModelState) -> list[str]:
    """Returns the names of trainable parameters in whose place others are registered."""
    found = []
    for module, registered in zip(state.modules, state.registered, strict=True):
        now = module._parameters
        if len(now) == len(registered) and all(map(is_, now.values(), registered.values())):
            continue
        for name, parameter in registered.items():
            if parameter is not None and parameter.requires_grad and now.get(name) is not parameter:
                found.append(f"{type(module).__name__}.{name}")
    return found


def register(state: ModelState) -> None:
    """Registers the parameters of a state."""
    for module, registered in zip(state.modules, state.registered, strict=True):
        now = module._parameters
        if len(now) != len(registered) or any(map(is_not, now.values(), registered.values())):
            _register(now, registered)


def register_frozen(state: ModelState) -> None:
    """Registers the frozen parameters of a state in place of frozen ones that replaced them."""
    for module, registered in zip(state.modules, state.registered, strict=True):
        now = module._parameters
        if len(now) == len(registered) and all(map(is_, now.values(), registered.values())):
            continue
        for name, before in registered.items():
            after = now.get(name)
            if before is None or after is None or before.requires_grad or after.requires_grad:
                continue
            now[name] = before


@dataclass
class StandIns:
    """Copies of a model's buffers, on which replays run.

    The buffers themselves are not changed: restoring a buffer's value in place between a forward
    and its backward pass would fail autograd's version check.

    Attributes:
        modules: The modules.
        buffers: The names of each module's buffers, with the index of the copy to register.
        copies: The copies.
        values: The values of the copies at the start of each replay.
    """

    modules: list[nn.Module]
    buffers: list[dict[str, int | None]]
    copies: list[Tensor]
    values: list[Tensor]


def stand_ins_of(state: ModelState) -> StandIns:
    """Copies the buffers of a state."""
    numbers: dict[int, int] = {}
    originals: list[Tensor] = []
    places: list[dict[str, int | None]] = []
    for own in state.buffers:
        entry: dict[str, int | None] = {}
        for name, buffer in own.items():
            if buffer is not None and id(buffer) not in numbers:
                numbers[id(buffer)] = len(originals)
                originals.append(buffer)
            entry[name] = None if buffer is None else numbers[id(buffer)]
        places.append(entry)
    return StandIns(state.modules, places, together(originals), together(originals))


def together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies tensors; those that share memory do so in the copy."""
    plain = [tensor.detach() for tensor in tensors]
    places = [t.untyped_storage().data_ptr() if t.layout is torch.strided else 0 for t in plain]
    if len(set(places)) == len(places):
        return [tensor.clone() for tensor in plain]
    storages: dict[int, torch.UntypedStorage] = {}
    found = []
    for tensor, place in zip(plain, places, strict=True):
        if place == 0 or places.count(place) == 1:
            found.append(tensor.clone())
            continue
        if place not in storages:
            storages[place] = tensor.untyped_storage().clone()
        like = tensor.new_empty(0)
        like.set_(storages[place], tensor.storage_offset(), tensor.shape, tensor.stride())
        found.append(like)
    return found


def install(stand_ins: StandIns) -> None:
    """Registers the copies in place of the buffers, with their initial values."""
    copies, values = stand_ins.copies, stand_ins.values
    if copies:
        if all(map(_alike, copies, values)):
            # Refreshed always, since a write through `.data` does not change a copy's version.
            torch._foreach_copy_([copy.detach() for copy in copies], values)
        else:
            copies = stand_ins.copies = together(values)
    for module, entry in zip(stand_ins.modules, stand_ins.buffers, strict=True):
        if entry or module._buffers:
            _register(
                module._buffers, {n: None if i is None else copies[i] for n, i in entry.items()}
            )


def _alike(copy: Tensor, value: Tensor) -> bool:
    return copy.shape == value.shape and copy.dtype == value.dtype and copy.device == value.device


def _register(owner: dict[str, V], entry: dict[str, V]) -> None:
    for name, tensor in entry.items():
        owner[name] = tensor  # noqa: PERF403 - scripted modules have no ``update``
    for name in owner.keys() - entry.keys():
        del owner[name]
