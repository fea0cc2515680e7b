"""The state of a model that replays must not change: its buffers and flags."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter

Buffers = dict[str, Tensor | None]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Returns all modules of a model, each once: ``model.modules()`` without making names."""
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


def devices_of(model: nn.Module) -> list[torch.device]:
    """Returns the devices of a model's parameters and buffers."""
    found: set[torch.device] = set()
    for module in modules_of(model):
        for tensors in (module._parameters, module._buffers):
            found.update(tensor.device for tensor in tensors.values() if tensor is not None)
    return sorted(found, key=str)


class ModelState:
    """Buffers, ``training`` flags and ``requires_grad`` flags of a model.

    Replays run on copies of the buffers, never on the buffers themselves: restoring a buffer's
    value in place between a forward and its backward pass would fail autograd's version check.

    Args:
        model: The model. Its buffers are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: list[tuple[Buffers, Buffers]] = []
        self._modes: list[tuple[nn.Module, bool]] = []
        self._trainable: list[tuple[Parameter, bool]] = []
        self._stand_ins: list[tuple[Buffers, Buffers]] = []
        self._without: list[Buffers] = []
        copies: dict[int, Tensor] = {}
        for module in modules_of(model):
            if not module._buffers:
                self._without.append(module._buffers)
                continue
            entry: Buffers = {}
            for name, buffer in module._buffers.items():
                if buffer is not None and id(buffer) not in copies:
                    copies[id(buffer)] = buffer.detach().clone()
                entry[name] = None if buffer is None else copies[id(buffer)]
            self._stand_ins.append((module._buffers, entry))
        self._copies = list(copies.values())
        self._values = [copy.clone() for copy in self._copies]

    def keep(self) -> set[int]:
        """Records the present buffers and flags, to which `put_back` returns.

        Returns:
            The ids of the trainable parameters.
        """
        modules = modules_of(self._model)
        self._kept = [(module._buffers, dict(module._buffers)) for module in modules]
        self._modes = [(module, module.training) for module in modules]
        self._trainable = [(p, p.requires_grad) for p in parameters_of(modules)]
        return {id(parameter) for parameter, trainable in self._trainable if trainable}

    def put_back(self) -> None:
        """Restores the buffers and flags recorded by `keep`."""
        for owner, buffers in self._kept:
            _register(owner, buffers)
        for module, training in self._modes:
            if module.training != training:
                module.training = training
        for parameter, requires_grad in self._trainable:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)

    def install(self) -> None:
        """Replaces the buffers by copies with the values of the time of construction."""
        # Copies that were never written need no refresh, but a write through `.data` is not seen.
        if self._copies:
            torch._foreach_copy_([copy.detach() for copy in self._copies], self._values)
        for owner, entry in self._stand_ins:
            _register(owner, entry)
        for owner in self._without:
            if owner:
                owner.clear()


def _register(owner: Buffers, entry: Buffers) -> None:
    for name, buffer in entry.items():
        owner[name] = buffer
    for name in owner.keys() - entry.keys():
        del owner[name]
