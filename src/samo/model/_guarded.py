"""What is registered in a model, and stand-ins for its buffers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter

Buffers = dict[str, Tensor | None]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, each once: those of ``model.modules()``, without making names."""
    found = {model: None}
    queue = [model]
    for module in queue:
        for child in module._modules.values():
            if child is not None and child not in found:
                found[child] = None
                queue.append(child)
    return queue


def parameters_of(modules: Iterable[nn.Module]) -> list[Parameter]:
    """The parameters that are registered in modules, each once."""
    registered = (p for module in modules for p in module._parameters.values() if p is not None)
    return list({id(parameter): parameter for parameter in registered}.values())


def devices_of(model: nn.Module) -> list[torch.device]:
    """The devices of a model's parameters and buffers."""
    found: set[torch.device] = set()
    for module in modules_of(model):
        for tensors in (module._parameters, module._buffers):
            found.update(tensor.device for tensor in tensors.values() if tensor is not None)
    return sorted(found, key=str)


class Registered:
    """What is registered in a model's modules as buffers, and the modules' and parameters' flags.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = modules_of(model)
        self._buffers = [(module._buffers, dict(module._buffers)) for module in modules]
        self._modes = [(module, module.training) for module in modules]
        self._trainable = [(p, p.requires_grad) for p in parameters_of(modules)]

    def put_back(self) -> None:
        """Registers what was registered, and sets the flags as they were."""
        for owner, buffers in self._buffers:
            _register(owner, buffers)
        for module, training in self._modes:
            if module.training != training:
                module.training = training
        for parameter, requires_grad in self._trainable:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


class Scratch:
    """Copies of the model's buffers for replays, refreshed to the values before the natural pass.

    Replays work on copies, never on the buffers themselves: putting a buffer's value back in place
    between a forward and its backward pass would break autograd's version check.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        copies: dict[int, Tensor] = {}
        self._entries: list[tuple[Buffers, Buffers]] = []
        self._without: list[Buffers] = []
        for module in modules_of(model):
            if not module._buffers:
                self._without.append(module._buffers)
                continue
            entry: Buffers = {}
            for name, buffer in module._buffers.items():
                if buffer is not None and id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone()
                entry[name] = None if buffer is None else copies[id(buffer)]
            self._entries.append((module._buffers, entry))
        self._copies = list(copies.values())
        self._values = [copy.clone() for copy in self._copies]

    def install(self) -> None:
        """Puts the copies in the buffers' place, with the values of the start."""
        # A copy that was never written would do, but a write through `.data` cannot be seen.
        if self._copies:
            torch._foreach_copy_([copy.detach() for copy in self._copies], self._values)
        for owner, entry in self._entries:
            _register(owner, entry)
        for owner in self._without:
            if owner:
                owner.clear()


def _register(owner: Buffers, entry: Buffers) -> None:
    for name, buffer in entry.items():
        owner[name] = buffer
    for name in owner.keys() - entry.keys():
        del owner[name]
