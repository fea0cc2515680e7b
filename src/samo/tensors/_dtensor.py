"""This rank's shard of a ``DTensor``.

``torch.distributed.tensor`` is slow to import, so DTensors are recognised by their methods.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_parts(tensor: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """Returns this rank's shard, with the same storage; a plain tensor is returned itself."""
    if not in_parts(tensor):
        return tensor
    dtensor: Any = tensor
    with torch.no_grad():
        part: Tensor = dtensor.to_local()
    return part


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Returns the part of ``whole`` that corresponds to this rank's shard of ``like``."""
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
    """Returns a tensor like ``like`` (a ``DTensor`` or not), given this rank's part of it."""
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
