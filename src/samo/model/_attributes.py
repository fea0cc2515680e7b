"""Attributes of modules that are neither parameters, buffers nor modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_, is_not
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

Slot = tuple[int, str]
"""The number of a module, and the name of one of its attributes."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HELD = frozenset({Tensor, list, dict})
_ABSENT: Any = object()


@dataclass(frozen=True)
class Contents:
    """The tensors of an attribute that is a tensor, or a list or dictionary of tensors.

    Attributes:
        value: The attribute.
        members: The tensors.
        copies: Their values; a tensor with a graph, and a parameter, is kept itself.
        versions: Their versions.
    """

    value: Any
    members: list[Tensor]
    copies: list[Tensor]
    versions: list[int]

    def changed(self) -> bool:
        """Whether the attribute has other contents now; False if it has anything but tensors."""
        now = _members(self.value)
        if now is None:
            return False
        if len(now) != len(self.members) or any(map(is_not, now, self.members)):
            return True
        return any(
            member._version != version or not (member is copy or torch.equal(member, copy))
            for member, copy, version in zip(now, self.copies, self.versions, strict=True)
        )

    def stand_in(self) -> Any:
        """Returns an equal object for replays."""
        its = zip(self.members, self.copies, strict=True)
        fresh = [copy if copy is member else copy.clone() for member, copy in its]
        if isinstance(self.value, dict):
            return dict(zip(self.value, fresh, strict=False))
        return fresh if isinstance(self.value, list) else fresh[0]


class Attributes:
    """The attributes of modules at one moment.

    What an attribute refers to can be put back, and the contents of tensors and of lists and
    dictionaries of tensors. The contents of other objects cannot.

    Args:
        modules: The modules.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._owners = [{} if isinstance(m, torch.jit.ScriptModule) else vars(m) for m in modules]
        self._before = list(map(dict, self._owners))
        self._contents: dict[Slot, Contents] = {}
        self._after: dict[Slot, Any] = {}
        copies: dict[int, Tensor] = {}
        for number, entries in enumerate(self._before):
            for name in entries.keys() - _OF_EVERY_MODULE:
                value = entries[name]
                if type(value) in _HELD:
                    self._hold((number, name), value, copies)

    @property
    def moved(self) -> Iterable[Slot]:
        """The attributes that `settle` found to have moved."""
        return self._after.keys()

    def settle(self) -> None:
        """Finds the attributes that have moved, and holds what they refer to now."""
        found = dict.fromkeys(self._rebound())
        found |= dict.fromkeys(s for s, contents in self._contents.items() if contents.changed())
        self._after = {(i, name): self._owners[i].get(name, _ABSENT) for i, name in found}

    def install(self) -> None:
        """Sets the attributes that have moved to what they were."""
        for slot in self._after:
            held = self._contents.get(slot)
            number, name = slot
            self._set(slot, held.stand_in() if held else self._before[number].get(name, _ABSENT))

    def put_back(self) -> None:
        """Sets the attributes that have moved to what they were when `settle` was called."""
        for slot, value in self._after.items():
            self._set(slot, value)

    def install_all(self) -> None:
        """Puts stand-ins in the place of all tensors, before an evaluation that is undone."""
        for slot, held in self._contents.items():
            if held.members:
                self._set(slot, held.stand_in())

    def undo(self) -> None:
        """Sets all attributes to what they were."""
        for number, name in list(self._rebound()):
            self._set((number, name), self._before[number].get(name, _ABSENT))
        for held in self._contents.values():
            if not held.members and held.changed():  # an empty list may be one of tensors or not
                held.value.clear()

    def _rebound(self) -> Iterator[Slot]:
        for number, (now, before) in enumerate(zip(self._owners, self._before, strict=True)):
            if len(now) == len(before) and all(map(is_, now.values(), before.values())):
                continue
            for name in (now.keys() | before.keys()) - _OF_EVERY_MODULE:
                if now.get(name, _ABSENT) is not before.get(name, _ABSENT):
                    yield number, name

    def _set(self, slot: Slot, value: Any) -> None:
        number, name = slot
        if value is _ABSENT:
            self._owners[number].pop(name, None)
        else:
            self._owners[number][name] = value

    def _hold(self, slot: Slot, value: Any, copies: dict[int, Tensor]) -> None:
        members = _members(value)
        if members is None:
            return
        for member in members:
            if id(member) not in copies:
                kept = member.requires_grad or isinstance(member, Parameter)
                copies[id(member)] = member if kept else member.clone()
        versions = [0 if member.is_inference() else member._version for member in members]
        self._contents[slot] = Contents(
            value, members, [copies[id(member)] for member in members], versions
        )


def _members(value: Any) -> list[Tensor] | None:
    """Returns the tensors of an attribute; None if it has anything else."""
    if isinstance(value, Tensor):
        return [value]
    members = list(value.values() if isinstance(value, dict) else value)
    return members if all(isinstance(member, Tensor) for member in members) else None
