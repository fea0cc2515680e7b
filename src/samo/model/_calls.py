"""Calls of a model's modules: observed by hooks, and attributed to tasks by the autograd graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ._graph import Reached
from ._journal import During, Journal

Call = tuple[int, int]
"""The id of a module, and the number of its earlier calls in the pass.

Modules are not keys: their hashes may depend on their state."""
CallNumbers = dict[int, list[int]]
"""The indices of calls, in order, by the module's id."""


class Observer:
    """Reports each call of modules, with the call that encloses it, and counts the calls.

    Args:
        modules: The modules.
        enter: Called with a call and the enclosing call (or None) before the forward pass.
        leave: Called with a call and the module's output after it.

    Attributes:
        counts: The number of calls by the id of the module.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        enter: Callable[[Call, Call | None], object],
        leave: Callable[[Call, object], object],
    ) -> None:
        self.counts: Counter[int] = Counter()
        self._modules = list(modules)
        self._enter, self._leave = enter, leave
        self._stack: list[Call] = []
        self._hooks = self._before, self._after

    def observing(self, journal: Journal) -> During:
        """Returns the context in which the modules have hooks."""
        return journal.during(self._register, self._remove)

    def _register(self) -> None:
        before, after = self._hooks
        for module in self._modules:
            # The outermost hooks, so that random numbers drawn by the user's hooks are included.
            module.register_forward_pre_hook(before, prepend=True)
            module.register_forward_hook(after)

    def _remove(self) -> None:
        """Removes the hooks by themselves: an interrupt may have taken the handle of one."""
        for module in self._modules:
            for hooks, hook in zip(
                (module._forward_pre_hooks, module._forward_hooks), self._hooks, strict=True
            ):
                for key in [key for key, found in hooks.items() if found is hook]:
                    hooks.pop(key, None)

    def _before(self, module: nn.Module, _inputs: object) -> None:
        if torch.compiler.is_compiling():  # the hook must not be compiled
            return
        key = id(module)
        call = (key, self.counts[key])
        self.counts[key] += 1
        self._enter(call, self._stack[-1] if self._stack else None)
        self._stack.append(call)

    def _after(self, module: nn.Module, _inputs: object, output: object) -> None:
        if torch.compiler.is_compiling():
            return
        while (call := self._stack.pop())[0] != id(module):
            pass  # a call that ended in an exception, which the closure caught
        self._leave(call, output)


def attributed(
    numbers: CallNumbers, made: Mapping[Call, list[Node]], losses: Mapping[str, Tensor]
) -> dict[str, CallNumbers]:
    """Determines which calls belong to which task, from the graph nodes that the calls created.

    A module that is called once belongs to every task. If it is called several times (a layer
    shared by all heads, a model called on each task's inputs), the graph decides.

    Args:
        numbers: The calls.
        made: The nodes that created each call's output.
        losses: The losses by task, with their graphs.

    Returns:
        The indices of the calls, by task.
    """
    repeated = [module for module, calls in numbers.items() if len(calls) > 1]
    of: dict[str, CallNumbers] = {task: dict(numbers) for task in losses}
    for task, loss in losses.items() if repeated else ():
        nodes = Reached([loss]).nodes
        for module in repeated:
            calls = numbers[module]
            of[task][module] = [n for n in calls if not nodes.isdisjoint(made[module, n])]
    return of


def nodes_of(output: object) -> Iterator[Node]:
    """Yields the graph nodes that created the tensors of a module's output."""
    if isinstance(output, Tensor):
        if output.grad_fn is not None:
            yield output.grad_fn
    elif isinstance(output, Mapping):
        yield from nodes_of(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from nodes_of(part)
