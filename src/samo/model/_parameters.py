"""Parameters that a model writes in its forward pass: found, and put back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Set

import torch
from torch import Tensor
from torch.nn import Parameter

# How many elements of a tensor are compared to see whether it has moved.
_SAMPLES = 32


class Held:
    """Parameters at one moment: where they are stored, their versions, and the values of some.

    Values are written through ``.data``, and versions are put back: a graph that was recorded at
    this moment stays valid. Only plain parameters are held, not the shards of a sharded model.

    Args:
        parameters: The parameters.
        copied: Those whose values are copied.
        sampled: Those of which some elements are copied, to see whether they move.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        copied: Iterable[Parameter],
        sampled: Iterable[Parameter] = (),
    ) -> None:
        self.parameters = [p for p in parameters if type(p) is Parameter and not p.is_inference()]
        self._data = [parameter.data for parameter in self.parameters]
        self._places = [data.data_ptr() for data in self._data]
        self._versions = [parameter._version for parameter in self.parameters]
        which, looked_at = set(map(id, copied)), set(map(id, sampled))
        numbers = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self._values = {i: self._data[i].clone() for key, i in numbers.items() if key in which}
        looked_at -= which
        self._sampled = _Samples({i: self._data[i] for k, i in numbers.items() if k in looked_at})

    def moved(self) -> list[Parameter]:
        """Returns the parameters that are stored elsewhere or have changed, as far as it is seen.

        A write through ``.data`` is seen if values were copied, or if it changes a sample.
        """
        found = self._written()
        found |= {
            number
            for number, value in self._values.items()
            if number not in found and not torch.equal(self._data[number], value)
        }
        found |= self._sampled.changed()
        return [self.parameters[number] for number in sorted(found)]

    def only(self, parameters: Iterable[Parameter]) -> Held:
        """Returns the same, but with the copied values of some parameters only."""
        if not self._values:
            return self
        which = set(map(id, parameters))
        found = copy.copy(self)
        found._values = {i: v for i, v in self._values.items() if id(self.parameters[i]) in which}
        return found

    def written(self) -> list[Parameter]:
        """Returns the parameters that are stored elsewhere, or were written in place."""
        return [self.parameters[number] for number in self._written()]

    def install(self, skipped: Set[int]) -> None:
        """Writes the copied values, except of the parameters with the ids ``skipped``."""
        for number, value in self._values.items():
            if id(self.parameters[number]) not in skipped:
                self.parameters[number].data.copy_(value)

    def put_back(self) -> None:
        """Puts back where parameters are stored, the copied values, and the versions."""
        written = self._written()
        for number in written:
            if self.parameters[number].data_ptr() != self._places[number]:
                self.parameters[number].data = self._data[number]
        for number, value in self._values.items():
            self._data[number].copy_(value)
        if written:
            torch._C._autograd._unsafe_set_version_counter(
                tuple(self.parameters), tuple(self._versions)
            )

    def _written(self) -> set[int]:
        """Returns the numbers of the parameters that autograd knows to have been written."""
        versions = [parameter._version for parameter in self.parameters]
        places = [parameter.data_ptr() for parameter in self.parameters]
        if versions == self._versions and places == self._places:
            return set()
        return {
            number
            for number, now in enumerate(zip(versions, places, strict=True))
            if now != (self._versions[number], self._places[number])
        }


class _Samples:
    """A few elements of each of some tensors, to be compared later."""

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        self._views: dict[tuple[torch.device, torch.dtype], dict[int, Tensor]] = {}
        for number, tensor in tensors.items():
            if tensor.numel() > 0:
                alike = self._views.setdefault((tensor.device, tensor.dtype), {})
                alike[number] = _some(tensor)
        self._before = {kind: torch.cat(list(v.values())) for kind, v in self._views.items()}

    def changed(self) -> set[int]:
        """Returns the numbers of the tensors of which an element has changed."""
        found: set[int] = set()
        for kind, before in self._before.items():
            views = self._views[kind]
            now = torch.cat(list(views.values()))
            if not torch.equal(now, before):
                sizes = [len(view) for view in views.values()]
                parts = zip(views, now.split(sizes), before.split(sizes), strict=True)
                found |= {number for number, one, two in parts if not torch.equal(one, two)}
        return found


def _some(tensor: Tensor) -> Tensor:
    """Returns a view of some elements: evenly spaced, or the first row."""
    if not tensor.is_contiguous():
        return tensor[(0,) * (tensor.dim() - 1)]
    step = -(-tensor.numel() // _SAMPLES)
    return tensor.view(-1)[::step]
