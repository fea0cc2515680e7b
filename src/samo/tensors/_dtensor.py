"""This rank's shard of a ``DTensor``.

``torch.distributed.tensor`` takes long to import, so DTensors are recognised by their methods.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_parts(tensor: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Returns the shard that this rank holds, with the same storage; a plain tensor itself."""
    if not in_parts(tensor):
        return tensor
    dtensor: Any = tensor
    with torch.no_grad():
        part: Tensor = dtensor.to_local()
    return part


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Returns, of a tensor with the shape of ``like``, what this rank holds of ``like``."""
    if in_parts(whole) or not in_parts(like):
        return local(whole)
    model: Any = like
    (placement,) = model.placements
    chunks = whole.chunk(model.device_mesh.size(), placement.dim)  # as DTensors are divided
    number = model.device_mesh.get_local_rank()
    if number < len(chunks):
        part: Tensor = chunks[number]
        return part
    return whole.narrow(placement.dim, 0, 0)


def assembled(part: Tensor, like: Tensor) -> Tensor:
    """Returns a tensor like ``like`` (a ``DTensor`` or not) of which this rank holds ``part``."""
    if not in_parts(like):
        return part
    model: Any = like
    whole: Tensor = type(model).from_local(
        part,
        model.device_mesh,
        model.placements,
        run_check=False,
        shape=model.shape,
        stride=model.stride(),
    )
    return whole
