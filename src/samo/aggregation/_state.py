"""Saves and restores the complete state of an aggregation method.

``nn.Module.state_dict`` is not enough: it cannot load a buffer that is None initially, and methods
keep state in plain attributes too. The state of a module consists of its parameters, its buffers
and every attribute that is data: None, numbers, strings, dtypes, devices, tensors, NumPy arrays,
``torch.Generator``, lists, tuples and dictionaries of these, and optimizers from ``torch.optim``
over the method's own tensors. Anything else (functions, solvers) is configuration and is not saved.

``torch.load(.., weights_only=True)`` can read the state: a value other than None, a number or a
string is a dictionary with one item, the kind of the value and its content.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

State = dict[str, dict[str, Any]]

_ATOMS = (type(None), bool, int, float, str)
# Attributes of every nn.Module: hooks, and the dictionaries of parameters, buffers and modules.
_MODULES_OWN = frozenset(vars(nn.Module())) - {"training"}


class _NotDataError(Exception):
    """Raised for values that are configuration, not state."""


def capture(module: nn.Module) -> State:
    """Copies the state of a method.

    Args:
        module: An aggregator, weighting or scalarizer.

    Returns:
        The name of the class and the state of each module inside it, by path.

    Raises:
        ValueError: If an optimizer has tensors that do not belong to the method.

    Example:
        >>> import torch
        >>> from samo import aggregation
        >>> from samo.aggregation import capture, restore
        >>> dwa, fresh = aggregation.create("dwa", 2), aggregation.create("dwa", 2)
        >>> _ = dwa(torch.tensor([1.0, 2.0]))
        >>> restore(fresh, capture(dwa))
        >>> fresh._sum
        tensor([1., 2.])
    """
    names = {id(tensor): name for name, tensor in _trainable(module)}
    return {path: _captured(part, names) for path, part in module.named_modules()}


def restore(module: nn.Module, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Restores a captured state exactly.

    Parameters are changed in place; everything else is replaced by a copy of the captured value.

    Args:
        module: A method of the same structure as the captured one. Options that are plain values
            take the captured values.
        state: The result of `capture`.

    Raises:
        ValueError: If the state belongs to another class, or its parameters have other names,
            shapes or dtypes. The method is then unchanged.
    """
    parts = dict(module.named_modules())
    _check(parts, state)
    for path, part in parts.items():
        _restore_tensors(part, state[path])
        # TorchJD's NashMTL creates its cvxpy problem at the first call only. Each call sets its
        # complete contents.
        if state[path]["attributes"].get("step") and hasattr(part, "_init_optim_problem"):
            part._init_optim_problem()
    tensors = dict(_trainable(module))
    for path, part in parts.items():
        for name, saved in state[path]["optimizers"].items():
            part.__dict__[name] = _optimizer(saved, tensors)


def _captured(part: nn.Module, names: Mapping[int, str]) -> dict[str, Any]:
    attributes, optimizers = {}, {}
    for name, value in _attributes(part):
        if isinstance(value, Optimizer):
            optimizers[name] = _encode_optimizer(name, value, names)
            continue
        try:
            attributes[name] = _encode(value)
        except _NotDataError:
            continue
    return {
        "class": type(part).__qualname__,
        "parameters": {name: _encode(value) for name, value in part._parameters.items()},
        "buffers": {name: _encode(value) for name, value in part._buffers.items()},
        "attributes": attributes,
        "optimizers": optimizers,
    }


def _check(parts: Mapping[str, nn.Module], state: Mapping[str, Mapping[str, Any]]) -> None:
    mine = {path: type(part).__qualname__ for path, part in parts.items()}
    saved = {path: entry["class"] for path, entry in state.items()}
    if mine != saved:
        raise ValueError(f"The state belongs to {_listed(saved)}; the method is {_listed(mine)}.")
    for path, part in parts.items():
        own = {name: _form(value) for name, value in part._parameters.items()}
        other = {name: _form(_decode(value)) for name, value in state[path]["parameters"].items()}
        if own != other:
            raise ValueError(
                f"The parameters of {mine[path]} differ: {other} in the state, {own} in the method."
            )


def _listed(classes: Mapping[str, str]) -> str:
    return ", ".join(f"{path}: {name}" if path else name for path, name in classes.items())


def _form(parameter: Tensor | None) -> str | None:
    return None if parameter is None else f"{list(parameter.shape)} {parameter.dtype}"


def _restore_tensors(part: nn.Module, saved: Mapping[str, Any]) -> None:
    with torch.no_grad():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                parameter.copy_(_decode(saved["parameters"][name]))
    part._buffers.update({name: _decode(value) for name, value in saved["buffers"].items()})
    # Bypasses nn.Module.__setattr__ and descriptors, which would register or check the values.
    part.__dict__.update({name: _decode(value) for name, value in saved["attributes"].items()})


def _attributes(part: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(part).items() if name not in _MODULES_OWN)


def _trainable(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor that an optimizer may hold, with a name that all instances share."""
    for path, part in module.named_modules():
        for name, value in [*part._parameters.items(), *_attributes(part)]:
            if isinstance(value, Tensor):
                yield f"{path}.{name}", value


def _encode_optimizer(
    attribute: str, optimizer: Optimizer, names: Mapping[int, str]
) -> dict[str, Any]:
    kind = type(optimizer).__name__
    groups = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if getattr(torch.optim, kind, None) is not type(optimizer) or any(None in g for g in groups):
        raise ValueError(
            f"The optimizer {attribute!r} of the aggregation method cannot be saved: it must be "
            f"one of torch.optim, over the method's own tensors; found {kind}."
        )
    return {"class": kind, "tensors": groups, "state": _encode(optimizer.state_dict())}


def _optimizer(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Optimizer:
    state = _decode(saved["state"])
    groups = [
        {**group, "params": [tensors[name] for name in names]}
        for group, names in zip(state["param_groups"], saved["tensors"], strict=True)
    ]
    optimizer: Optimizer = getattr(torch.optim, saved["class"])(groups)
    optimizer.load_state_dict(state)
    return optimizer


def _encode(value: Any) -> Any:
    if type(value) in _ATOMS:
        return value
    numpy = sys.modules.get("numpy")
    if isinstance(value, Tensor):
        data = value.detach().clone()
        return {"tensor": [data, str(value.device), value.is_leaf and value.requires_grad]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.Generator):
        return {"generator": [value.get_state(), str(value.device)]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(item) for item in value]}
    if type(value) is dict:
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if numpy and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
        kind = "array" if isinstance(value, numpy.ndarray) else "scalar"
        return {kind: torch.from_numpy(numpy.array(value))}
    raise _NotDataError


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return _DECODERS[kind](content)


def _tensor(content: list[Any]) -> Tensor:
    data, device, requires_grad = content
    copy: Tensor = data.detach().to(_present(device), copy=True)
    return copy.requires_grad_(requires_grad)


def _generator(content: list[Any]) -> torch.Generator:
    data, device = content
    generator = torch.Generator(_present(device))
    generator.set_state(data.cpu())
    return generator


def _present(device: str) -> torch.device:
    """Returns the device of that name, or the CPU if this machine does not have it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        return torch.device("cpu")
    return torch.device(device)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "tensor": _tensor,
    "dtype": lambda name: getattr(torch, name),
    "device": _present,
    "generator": _generator,
    "list": lambda items: [_decode(item) for item in items],
    "tuple": lambda items: tuple(_decode(item) for item in items),
    "dict": lambda pairs: {_decode(key): _decode(item) for key, item in pairs},
    "array": lambda data: data.numpy().copy(order="K"),
    "scalar": lambda data: data.numpy()[()],
}
