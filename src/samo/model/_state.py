"""The state of a model that an evaluation may change: its buffers and flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

Buffers = dict[str, Tensor | None]


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


@dataclass(frozen=True)
class ModelState:
    """The modules and parameters of a model, with its buffers and flags at one moment.

    Attributes:
        modules: The modules, each once.
        parameters: The parameters, each once.
        buffers: The buffers of each module, by name.
        modes: The modules' ``training`` flags.
        trainable: The parameters' ``requires_grad`` flags.
    """

    modules: list[nn.Module]
    parameters: list[Parameter]
    buffers: list[Buffers]
    modes: list[bool]
    trainable: list[bool]

    @property
    def structure(self) -> list[nn.Module | Parameter]:
        """The modules and the trainable parameters."""
        flags = zip(self.parameters, self.trainable, strict=True)
        return [*self.modules, *(parameter for parameter, trainable in flags if trainable)]


def state_of(model: nn.Module) -> ModelState:
    """Returns the current state of a model."""
    modules = modules_of(model)
    parameters = parameters_of(modules)
    return ModelState(
        modules,
        parameters,
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
    """Restores the buffers and flags of a state."""
    for module, buffers, training in zip(state.modules, state.buffers, state.modes, strict=True):
        if buffers or module._buffers:
            _register(module._buffers, buffers)
        if module.training != training:
            module.training = training
    for parameter, requires_grad in zip(state.parameters, state.trainable, strict=True):
        if parameter.requires_grad != requires_grad:
            parameter.requires_grad_(requires_grad)


@dataclass(frozen=True)
class StandIns:
    """Copies of a model's buffers, on which replays run.

    The buffers themselves are not changed: restoring a buffer's value in place between a forward
    and its backward pass would fail autograd's version check.

    Attributes:
        modules: The modules.
        buffers: The copies to register in each module, by name.
        copies: The copies.
        values: The values of the copies at the start of each replay.
    """

    modules: list[nn.Module]
    buffers: list[Buffers]
    copies: list[Tensor]
    values: list[Tensor]


def stand_ins_of(state: ModelState) -> StandIns:
    """Copies the buffers of a state."""
    copies: dict[int, Tensor] = {}
    buffers: list[Buffers] = []
    for own in state.buffers:
        entry: Buffers = {}
        for name, buffer in own.items():
            if buffer is not None and id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
            entry[name] = None if buffer is None else copies[id(buffer)]
        buffers.append(entry)
    values = [copy.clone() for copy in copies.values()]
    return StandIns(state.modules, buffers, list(copies.values()), values)


def install(stand_ins: StandIns) -> None:
    """Registers the copies in place of the buffers, with their initial values."""
    # Refreshed always, since a write through `.data` does not change a copy's version.
    if stand_ins.copies:
        copies = [copy.detach() for copy in stand_ins.copies]
        torch._foreach_copy_(copies, stand_ins.values)
    for module, entry in zip(stand_ins.modules, stand_ins.buffers, strict=True):
        if entry or module._buffers:
            _register(module._buffers, entry)


def _register(owner: Buffers, entry: Buffers) -> None:
    for name, buffer in entry.items():
        owner[name] = buffer
    for name in owner.keys() - entry.keys():
        del owner[name]
