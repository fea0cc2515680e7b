"""Points: values of parameters that are written for a while, and restored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from samo.model import Journal
from samo.tensors import Vector, cut, shards


@dataclass(frozen=True)
class Point:
    """Parameters, and a copy of their values to restore.

    A parameter that the model stores elsewhere (``parameter.data = ..``) is stored here again.
    Values are written through ``.data``, which autograd does not track: a graph recorded at the
    point stays valid, since its saved parameters are restored bit for bit before backward.

    Attributes:
        live: The tensors that are written to.
        values: The copy.
        parameters: The parameters.
    """

    live: list[Tensor]
    values: Vector
    parameters: list[Tensor]


def point_of(parameters: Sequence[Tensor], values: Vector) -> Point:
    """Returns the current point of parameters; copies their values to ``values``."""
    its = shards(parameters)
    live = [shard.data for shard in its]
    return Point(live, values.copy_(live), list(its))


def split(point: Point, counts: Sequence[int]) -> list[Point]:
    """Splits a point into the points of consecutive parameters, ``counts`` at a time."""
    values = point.values.layout.sections(point.values, counts)
    return list(map(Point, cut(point.live, counts), values, cut(point.parameters, counts)))


Moves = tuple[Iterable[tuple[Point, Vector]], float]
"""Points and directions, with a factor of the directions."""


def displaced(journal: Journal, *moves: Moves) -> AbstractContextManager[None]:
    """Returns a context with the parameters at ``values + factor * direction``."""
    ways: list[tuple[list[Tensor], list[Tensor], float]] = []
    points: list[Point] = []
    for pairs, factor in moves:
        live, directions = list[Tensor](), list[Tensor]()
        for point, direction in pairs:
            points.append(point)
            live += point.live
            directions += direction.tensors
        if live:
            ways.append((live, directions, factor))
    if not ways:
        return nullcontext()

    def move() -> None:
        for tensors, directions, factor in ways:
            torch._foreach_add_(tensors, directions, alpha=factor)
        ways.clear()  # a direction that nobody else needs makes room

    return journal.during(move, partial(_restore, points))


def _restore(points: Sequence[Point]) -> None:
    """Writes the copied values, and puts back where the parameters are stored."""
    live = [tensor for point in points for tensor in point.live]
    torch._foreach_copy_(live, [value for point in points for value in point.values.tensors])
    parameters = [parameter for point in points for parameter in point.parameters]
    for parameter, its in zip(parameters, live, strict=True):
        if parameter.data_ptr() != its.data_ptr():
            parameter.data = its
