"""A list of tensors as one vector.

The parameters of a network are many tensors; the mathematics of the step is about one vector. A
`Layout` says where each tensor lies in flat storage (one flat tensor for each device and dtype
among them), a `Vector` is such storage together with its views in the tensors' shapes, and a
`Matrix` has one vector a row. Whole-vector arithmetic runs on the flat storage, arithmetic with
the network's own tensors by ``torch._foreach`` on the views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self, TypeVar

import torch
from torch import Tensor

from samo.tensors._dtensor import local

# Numbers of the K x m matrix that are brought to float64 at a time when its Gramian is made: enough
# that the matrix product dominates, few enough that the copy stays in cache.
_GRAMIAN_BLOCK = 1 << 18

T = TypeVar("T")

Spread = Callable[[Tensor], Tensor]
"""Sums numbers over the ranks that hold the coordinates of a vector between them."""


class Layout:
    """Where each of a list of tensors lies in flat storage.

    Args:
        tensors: The tensors to model the layout on, of which this rank's parts count; they are not
            kept.
        spread: Sums numbers over the ranks, where these have the coordinates between them.
    """

    def __init__(self, tensors: Sequence[Tensor], spread: Spread | None = None) -> None:
        self.spread = spread
        self._sizes: dict[tuple[torch.device, torch.dtype], int] = {}
        self._places: list[tuple[int, int, torch.Size, tuple[int, ...]]] = []
        self._signature = _signature(tensors)
        self._sections: tuple[tuple[int, ...], list[Layout]] = ((), [])
        for tensor in map(local, tensors):
            key = (tensor.device, tensor.dtype)
            offset = self._sizes.setdefault(key, 0)
            self._sizes[key] += tensor.numel()
            group = list(self._sizes).index(key)
            # A dense tensor keeps its memory format (channels last, say); others are contiguous.
            stride = torch.empty_like(tensor, device="meta").stride()
            self._places.append((group, offset, tensor.shape, stride))

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the layout of these tensors would be the same."""
        return self._signature == _signature(tensors)

    @cached_property
    def numels(self) -> list[int]:
        """The numbers of coordinates of the tensors, over all ranks that hold parts of them."""
        here = torch.tensor([math.prod(shape) for _, _, shape, _ in self._places])
        return (here if self.spread is None else self.spread(here)).tolist()

    def empty(self) -> Vector:
        """A vector of this layout, uninitialised."""
        return self._over([torch.empty(n, device=d, dtype=t) for (d, t), n in self._sizes.items()])

    def zeros(self) -> Vector:
        """A vector of this layout, all zero."""
        return self._over([torch.zeros(n, device=d, dtype=t) for (d, t), n in self._sizes.items()])

    def copy_of(self, tensors: Sequence[Tensor | None]) -> Vector:
        """A vector of this layout with the tensors' values; None stands for zero."""
        return self.empty().copy_(tensors)

    def matrix(self, rows: int, dtype: torch.dtype | None = None) -> Matrix:
        """A matrix of that many rows of this layout, all zero, stored in a dtype of its own."""
        sizes = self._sizes.items()
        flats = [torch.zeros(rows, n, device=d, dtype=dtype or t) for (d, t), n in sizes]
        return self.matrix_over(flats, rows)

    def matrix_over(self, flats: list[Tensor], rows: int) -> Matrix:
        """The matrix of that many rows of this layout that has this storage."""
        return Matrix(self, flats, [self._over([flat[i] for flat in flats]) for i in range(rows)])

    def sections(self, vector: Vector, counts: Sequence[int]) -> list[Vector]:
        """Vectors of so many of a vector's tensors at a time, in its storage.

        Args:
            vector: A vector of this layout.
            counts: How many tensors each has: all of the vector's together.

        Returns:
            The vectors.
        """
        parts = cut(vector.tensors, counts)
        if self._sections[0] != tuple(counts):
            self._sections = tuple(counts), [Layout(part, self.spread) for part in parts]
        flats = dict(zip(self._sizes, vector.flats, strict=True))
        starts, found = dict.fromkeys(flats, 0), []
        for part, layout in zip(parts, self._sections[1], strict=True):
            own = []
            for key, size in layout._sizes.items():
                own.append(flats[key].narrow(0, starts[key], size))
                starts[key] += size
            found.append(Vector(layout, own, part))
        return found

    def divided(self, parts: int, spread: Spread) -> Layout:
        """The layout of an even share of the coordinates, in as many parts."""
        keys = self._sizes.items()
        like = [torch.empty((), device=d, dtype=t).expand(-(-n // parts)) for (d, t), n in keys]
        return Layout(like, spread)

    def padded(self, parts: int) -> Vector:
        """A vector of this layout, all zero, whose storage can be cut in as many even parts."""
        keys = self._sizes.items()
        return self._over(
            [torch.zeros(-(-n // parts) * parts, device=d, dtype=t) for (d, t), n in keys]
        )

    def over(self, flat: Tensor) -> Vector:
        """A vector of this layout with the values of a row of `Matrix.whole`."""
        parts = flat.split(list(self._sizes.values()))
        return self._over([part.to(d, t) for part, (d, t) in zip(parts, self._sizes, strict=True)])

    def _over(self, flats: list[Tensor]) -> Vector:
        tensors = []
        for group, offset, shape, stride in self._places:
            flat = flats[group]
            tensors.append(flat.as_strided(shape, stride, flat.storage_offset() + offset))
        return Vector(self, flats, tensors)


class Vector:
    """Flat storage and its views in the shapes of a list of tensors.

    Attributes:
        layout: The layout.
        flats: The storage, a 1-d tensor for each device and dtype.
        tensors: Views of the storage, in the order and shapes of the layout's tensors.
    """

    __slots__ = ("flats", "layout", "tensors")

    def __init__(self, layout: Layout, flats: list[Tensor], tensors: list[Tensor]) -> None:
        self.layout = layout
        self.flats = flats
        self.tensors = tensors

    def copy_(self, tensors: Sequence[Tensor | None]) -> Self:
        """Takes over the tensors' values; None stands for zero."""
        own, others = self._present(tensors)
        if len(own) < len(self.tensors):
            for flat in self.flats:
                flat.zero_()
        if own:
            torch._foreach_copy_(own, others)
        return self

    def add_(self, tensors: Sequence[Tensor | None], alpha: Tensor | float = 1.0) -> Self:
        """Adds ``alpha`` times the tensors; None stands for zero."""
        own, others = self._present(tensors)
        if not own:
            return self
        if isinstance(alpha, Tensor):
            torch._foreach_add_(own, torch._foreach_mul(others, alpha.to(others[0].device)))
        else:
            torch._foreach_add_(own, others, alpha=alpha)
        return self

    def lerp_(self, other: Vector, weight: float) -> Self:
        """Becomes ``(1 - weight)`` times itself plus ``weight`` times a vector of one layout."""
        for flat, end in zip(self.flats, other.flats, strict=True):
            flat.lerp_(end, weight)
        return self

    def mul_(self, factor: Tensor | float) -> Self:
        """Multiplies by a number."""
        for flat in self.flats:
            flat.mul_(factor if isinstance(factor, float) else factor.to(flat.device))
        return self

    def hadamard_(self, tensors: Sequence[Tensor | None]) -> Self:
        """Multiplies element by element; None stands for ones."""
        for own, tensor in zip(self.tensors, tensors, strict=True):
            if tensor is not None:
                own.mul_(tensor)
        return self

    def norm(self) -> Tensor:
        """The Euclidean norm of the whole, in float32 or wider: a 0-d tensor."""
        norms: list[Tensor]
        norms = [torch.linalg.vector_norm(f, dtype=wide(f.dtype)) for f in self.flats]
        spread = self.layout.spread
        if not norms:
            return torch.zeros(())
        if len(norms) == 1 and spread is None:
            return norms[0]
        dtype = widest(norms)
        square = torch.stack([n.to(norms[0].device, dtype) for n in norms]).square().sum()
        return (square if spread is None else spread(square)).sqrt()

    def norms(self) -> list[Tensor]:
        """The Euclidean norm of each tensor, in float32 or wider: 0-d tensors."""
        norms: list[Tensor]
        if self.tensors and all(flat.dtype == wide(flat.dtype) for flat in self.flats):
            norms = list(torch._foreach_norm(self.tensors))
        else:
            norms = [torch.linalg.vector_norm(t, dtype=wide(t.dtype)) for t in self.tensors]
        if self.layout.spread is None or not norms:
            return norms
        squares = torch.stack([norm.to(norms[0]) for norm in norms]).square()
        return list(self.layout.spread(squares).sqrt())

    def _present(self, tensors: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Those of the views that there is a tensor for, and these tensors."""
        pairs = zip(self.tensors, tensors, strict=True)
        own = [view for view, tensor in pairs if tensor is not None]
        return own, [local(tensor) for tensor in tensors if tensor is not None]


class Matrix:
    """One vector a row.

    Attributes:
        layout: The rows' layout.
        flats: The storage, of shape ``[rows, m_g]`` for each device and dtype g.
        rows: The rows as vectors.
    """

    __slots__ = ("_blocks", "flats", "layout", "rows")

    def __init__(self, layout: Layout, flats: list[Tensor], rows: list[Vector]) -> None:
        self.layout = layout
        self.flats = flats
        self.rows = rows
        self._blocks: dict[torch.device, Tensor] = {}

    def select(self, rows: Sequence[int]) -> Matrix:
        """The matrix of some of the rows: itself where they are all, else a copy."""
        if list(rows) == list(range(len(self.rows))):
            return self
        flats = [f.index_select(0, torch.tensor(rows, device=f.device)) for f in self.flats]
        return self.layout.matrix_over(flats, len(rows))

    def sub_(self, other: Matrix) -> Self:
        """Subtracts a matrix of the same layout."""
        for flat, subtrahend in zip(self.flats, other.flats, strict=True):
            flat.sub_(subtrahend)
        return self

    def gramian(self) -> Tensor:
        """The inner products of the rows, accumulated in float64, on a device of the rows'."""
        shape, dtype = (len(self.rows), len(self.rows)), torch.float64
        parts = []
        for flat in self.flats:
            part = torch.zeros(shape, dtype=dtype, device=flat.device)
            for columns in flat.split(max(1, _GRAMIAN_BLOCK // max(1, len(flat))), dim=1):
                wide_columns = columns if flat.dtype == dtype else self._widened(columns)
                part.addmm_(wide_columns, wide_columns.T)
            parts.append(part)
        total = parts[0] if parts else torch.zeros(shape, dtype=dtype)
        for part in parts[1:]:
            total += part.to(total.device)
        return total if self.layout.spread is None else self.layout.spread(total)

    def _widened(self, columns: Tensor) -> Tensor:
        """Some columns in float64, in storage that is kept: the system clears what it hands out."""
        block = self._blocks.get(columns.device)
        if block is None or len(block) < columns.numel():
            self._blocks.pop(columns.device, None)
            block = torch.empty(columns.numel(), dtype=torch.float64, device=columns.device)
            self._blocks[columns.device] = block
        return block[: columns.numel()].view(columns.shape).copy_(columns)

    def whole(self) -> Tensor:
        """The matrix as one tensor on the first device, in float32 or wider: ``[rows, m]``."""
        dtype = wide(widest(self.flats))
        return torch.cat([flat.to(self.flats[0].device, dtype) for flat in self.flats], dim=1)

    def combine(self, weights: Tensor) -> Vector:
        """The weighted sum of the rows."""
        combined = self.layout.empty()
        for flat, out in zip(self.flats, combined.flats, strict=True):
            if flat.dtype == out.dtype:
                factors = weights.to(flat.device, flat.dtype, non_blocking=True)
                torch.mv(flat.T, factors, out=out)
            else:  # what is stored in less is not rounded once more
                out.zero_()
                for row, weight in zip(flat, weights.tolist(), strict=True):
                    out.add_(row, alpha=weight)
        return combined


def _signature(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [(t.device, t.dtype, t.shape, t.stride()) for t in tensors]


def cut(items: list[T], counts: Iterable[int]) -> list[list[T]]:
    """So many of the items at a time, in their order."""
    return [items[start:end] for start, end in pairwise(accumulate(counts, initial=0))]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to reduce in: the given one, or float32 where that is narrower."""
    return torch.promote_types(dtype, torch.float32)


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds all of the tensors' values."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
