"""What an evaluation moves, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ._attributes import Attributes
from ._random import drawn_between, global_generators, states_of
from ._state import devices_of, state_of

T = TypeVar("T")


def moved_by(evaluate: Callable[[], T], models: Sequence[nn.Module]) -> tuple[T, list[str]]:
    """Evaluates, and finds what has moved.

    Args:
        evaluate: The evaluation.
        models: A model, and guarded modules.

    Returns:
        What it returns, and the names of the parameters, buffers and attributes that have changed
        or been replaced, and of the random number generators that were drawn from.
    """
    state = state_of(*models)
    paths = {id(module): path for path, module in _modules(models)}
    before = {name: (tensor, tensor.detach().clone()) for name, tensor in _tensors(models)}
    attributes = Attributes(state.modules)
    generators = global_generators(devices_of(state))
    states = states_of(generators)
    found = evaluate()
    after = dict(_tensors(models))
    moved = [name for name in {**before, **after} if _differ(before.get(name), after.get(name))]
    attributes.settle()
    moved += [f"{paths[id(state.modules[i])]}{name}" for i, name in attributes.moved]
    drawn = drawn_between(generators, states, states_of(generators))
    return found, moved + [generators[i].name for i in sorted(drawn)]


def _modules(models: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for number, model in enumerate(models):
        root = f"guards[{number - 1}]" if number else ""
        for path, module in model.named_modules():
            whole = ".".join(filter(None, [root, path]))
            yield f"{whole}." if whole else "", module


def _tensors(models: Sequence[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for path, module in _modules(models):
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                yield path + name, tensor


def _differ(before: tuple[Tensor, Tensor] | None, after: Tensor | None) -> bool:
    if before is None or after is None:
        return (before is None) != (after is None)
    tensor, copy = before
    return tensor is not after or tensor.shape != copy.shape or not torch.equal(tensor, copy)
