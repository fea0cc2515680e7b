"""A list of tensors as one vector.

The parameters of a network are many tensors; the equations of a step use one vector. A `Layout`
maps the tensors to flat storage (one flat tensor for each device and dtype), a `Vector` is such
storage with its views in the tensors' shapes, a `Matrix` has one vector per row, and a `Workspace`
reuses their storage from step to step. Arithmetic on whole vectors runs on the flat storage,
arithmetic with the network's own tensors by ``torch._foreach`` on the views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self, TypeVar

import torch
from torch import Tensor

from ._dtensor import local

# Entries of the K x m matrix that are converted to float64 at a time to compute its Gramian: enough
# for the matrix product to dominate, few enough for the copy to stay in cache.
_GRAMIAN_BLOCK = 1 << 18

T = TypeVar("T")

GlobalSum = Callable[[Tensor], Tensor]
"""Sums numbers over the ranks that hold the shards of a vector."""


class Layout:
    """Positions of a list of tensors in flat storage.

    Args:
        tensors: The tensors that define the layout (of a ``DTensor``, this rank's shard). No
            reference to them is kept.
        global_sum: Sums numbers over the ranks; None if the tensors are not sharded.
        apart: Whether each tensor has a flat tensor of its own.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        global_sum: GlobalSum | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.global_sum = global_sum
        self._sizes: dict[tuple[torch.device, torch.dtype, int], int] = {}
        self._places: list[tuple[int, int, torch.Size, tuple[int, ...]]] = []
        self._signature = _signature(tensors)
        self._sections: tuple[tuple[int, ...], list[Layout]] = ((), [])
        for number, tensor in enumerate(shards(tensors)):
            key = (tensor.device, tensor.dtype, number if apart else 0)
            offset = self._sizes.setdefault(key, 0)
            self._sizes[key] += tensor.numel()
            group = list(self._sizes).index(key)
            # Dense tensors keep their memory format, such as channels last; others are contiguous.
            stride = torch.empty_like(tensor, device="meta").stride()
            self._places.append((group, offset, tensor.shape, stride))

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors have this layout."""
        return self._signature == _signature(tensors)

    @cached_property
    def numels(self) -> list[int]:
        """The number of elements of each tensor, summed over the ranks that hold its shards."""
        here = torch.tensor([math.prod(shape) for _, _, shape, _ in self._places])
        return (here if self.global_sum is None else self.global_sum(here)).tolist()

    def empty(self) -> Vector:
        """Returns an uninitialised vector."""
        return self._over(
            [torch.empty(n, device=d, dtype=t) for (d, t, _), n in self._sizes.items()]
        )

    def zeros(self) -> Vector:
        """Returns a zero vector."""
        return self._over(
            [torch.zeros(n, device=d, dtype=t) for (d, t, _), n in self._sizes.items()]
        )

    def copy_of(self, tensors: Sequence[Tensor | None]) -> Vector:
        """Returns a vector with the tensors' values; None stands for zero."""
        return self.empty().copy_(tensors)

    def matrix(self, rows: int, dtype: torch.dtype | None = None) -> Matrix:
        """Returns a zero matrix with this number of rows, in ``dtype`` or the tensors' dtypes."""
        sizes = self._sizes.items()
        flats = [torch.zeros(rows, n, device=d, dtype=dtype or t) for (d, t, _), n in sizes]
        return self.matrix_over(flats, rows)

    def matrix_over(self, flats: list[Tensor], rows: int) -> Matrix:
        """Returns the matrix whose storage is ``flats``."""
        return Matrix(self, flats, rows)

    def sections(self, vector: Vector, counts: Sequence[int]) -> list[Vector]:
        """Splits a vector of this layout into vectors of consecutive tensors, in its storage.

        Args:
            vector: The vector.
            counts: The number of tensors in each section.

        Returns:
            The sections.
        """
        parts = cut(vector.tensors, counts)
        if self._sections[0] != tuple(counts):
            self._sections = tuple(counts), [Layout(part, self.global_sum) for part in parts]
        layouts = self._sections[1]
        pieces = {
            key: flat.split([layout._sizes.get(key, 0) for layout in layouts])
            for key, flat in zip(self._sizes, vector.flats, strict=True)
        }
        return [
            Vector(layout, [pieces[key][i] for key in layout._sizes], parts[i])
            for i, layout in enumerate(layouts)
        ]

    def divided(self, parts: int, global_sum: GlobalSum) -> Layout:
        """Returns the layout of one of ``parts`` equal slices of the coordinates."""
        keys = self._sizes.items()
        like = [torch.empty((), device=d, dtype=t).expand(-(-n // parts)) for (d, t, _), n in keys]
        return Layout(like, global_sum)

    def padded(self, parts: int) -> Vector:
        """Returns a zero vector whose storage is padded to a multiple of ``parts``."""
        keys = self._sizes.items()
        return self._over(
            [torch.zeros(-(-n // parts) * parts, device=d, dtype=t) for (d, t, _), n in keys]
        )

    def over(self, flat: Tensor) -> Vector:
        """Returns a vector with the values of one row of `Matrix.whole`."""
        parts = flat.split(list(self._sizes.values()))
        return self._over(
            [part.to(d, t) for part, (d, t, _) in zip(parts, self._sizes, strict=True)]
        )

    def views(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """Returns the views of flat storage in the shapes of the tensors."""
        starts = [flat.storage_offset() for flat in flats]
        return [
            flats[group].as_strided(shape, stride, starts[group] + offset)
            for group, offset, shape, stride in self._places
        ]

    def _over(self, flats: list[Tensor]) -> Vector:
        return Vector(self, flats)


class Vector:
    """Flat storage and its views in the shapes of a list of tensors.

    Attributes:
        layout: The layout.
        flats: The storage, a 1-d tensor for each device and dtype.
    """

    __slots__ = ("_tensors", "flats", "layout")

    def __init__(
        self, layout: Layout, flats: list[Tensor], tensors: list[Tensor] | None = None
    ) -> None:
        self.layout = layout
        self.flats = flats
        self._tensors = tensors

    @property
    def tensors(self) -> list[Tensor]:
        """Views of the storage, in the order and shapes of the layout's tensors."""
        if self._tensors is None:
            self._tensors = self.layout.views(self.flats)
        return self._tensors

    def copy_(self, tensors: Sequence[Tensor | None]) -> Self:
        """Copies the tensors' values; None stands for zero."""
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
        """Replaces itself by ``(1 - weight) * self + weight * other``, of the same layout."""
        for flat, end in zip(self.flats, other.flats, strict=True):
            flat.lerp_(end, weight)
        return self

    def mul_(self, factor: Tensor | float) -> Self:
        """Multiplies by a number."""
        for flat in self.flats:
            flat.mul_(factor if isinstance(factor, float) else factor.to(flat.device))
        return self

    def hadamard_(self, tensors: Sequence[Tensor | None]) -> Self:
        """Multiplies elementwise; None stands for ones."""
        for own, tensor in zip(self.tensors, tensors, strict=True):
            if tensor is not None:
                own.mul_(tensor)
        return self

    def norm(self) -> Tensor:
        """Returns the Euclidean norm, in float32 or wider: a 0-d tensor."""
        norms: list[Tensor]
        norms = [torch.linalg.vector_norm(f, dtype=wide(f.dtype)) for f in self.flats]
        global_sum = self.layout.global_sum
        if not norms:
            return torch.zeros(())
        if len(norms) == 1 and global_sum is None:
            return norms[0]
        dtype = widest(norms)
        square = torch.stack([n.to(norms[0].device, dtype) for n in norms]).square().sum()
        return (square if global_sum is None else global_sum(square)).sqrt()

    def norms(self) -> list[Tensor]:
        """Returns the Euclidean norm of each tensor, in float32 or wider: 0-d tensors."""
        norms: list[Tensor]
        if self.tensors and all(flat.dtype == wide(flat.dtype) for flat in self.flats):
            norms = list(torch._foreach_norm(self.tensors))
        else:
            norms = [torch.linalg.vector_norm(t, dtype=wide(t.dtype)) for t in self.tensors]
        if self.layout.global_sum is None or not norms:
            return norms
        squares = torch.stack([norm.to(norms[0]) for norm in norms]).square()
        return list(self.layout.global_sum(squares).sqrt())

    def _present(self, tensors: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the views for which there is a tensor, and these tensors."""
        pairs = zip(self.tensors, tensors, strict=True)
        own = [view for view, tensor in pairs if tensor is not None]
        return own, shards([tensor for tensor in tensors if tensor is not None])


class Matrix:
    """One vector per row.

    Attributes:
        layout: The rows' layout.
        flats: The storage, of shape ``[rows, m_g]`` for each device and dtype g.
    """

    __slots__ = ("_blocks", "_number", "_rows", "flats", "layout")

    def __init__(self, layout: Layout, flats: list[Tensor], number: int) -> None:
        self.layout = layout
        self.flats = flats
        self._number = number
        self._rows: list[Vector] = []
        self._blocks: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return self._number

    @property
    def rows(self) -> list[Vector]:
        """The rows as vectors."""
        if len(self._rows) < self._number:
            self._rows = [
                Vector(self.layout, [flat[i] for flat in self.flats]) for i in range(self._number)
            ]
        return self._rows

    def select(self, rows: Sequence[int]) -> Matrix:
        """Returns the matrix of some rows: itself for all rows in order, else a copy."""
        if list(rows) == list(range(len(self))):
            return self
        flats = [f.index_select(0, torch.tensor(rows, device=f.device)) for f in self.flats]
        return self.layout.matrix_over(flats, len(rows))

    def sub_(self, other: Matrix) -> Self:
        """Subtracts a matrix of the same layout."""
        for flat, subtrahend in zip(self.flats, other.flats, strict=True):
            flat.sub_(subtrahend)
        return self

    def gramian(self) -> Tensor:
        """Returns the inner products of the rows, accumulated in float64, on the first device."""
        shape, dtype = (len(self), len(self)), torch.float64
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
        return total if self.layout.global_sum is None else self.layout.global_sum(total)

    def _widened(self, columns: Tensor) -> Tensor:
        """Converts columns to float64, in a reused buffer because allocation is slow."""
        block = self._blocks.get(columns.device)
        if block is None or len(block) < columns.numel():
            self._blocks.pop(columns.device, None)
            block = torch.empty(columns.numel(), dtype=torch.float64, device=columns.device)
            self._blocks[columns.device] = block
        return block[: columns.numel()].view(columns.shape).copy_(columns)

    def whole(self) -> Tensor:
        """Returns the matrix as one tensor on the first device: ``[rows, m]``, float32 or wider."""
        dtype = wide(widest(self.flats))
        return torch.cat([flat.to(self.flats[0].device, dtype) for flat in self.flats], dim=1)

    def combine(self, weights: Tensor) -> Vector:
        """Returns the weighted sum of the rows."""
        combined = self.layout.empty()
        for flat, out in zip(self.flats, combined.flats, strict=True):
            if flat.dtype == out.dtype:
                factors = weights.to(flat.device, flat.dtype, non_blocking=True)
                torch.mv(flat.T, factors, out=out)
            else:  # rows stored in a narrower dtype: the sum must not be rounded to it
                out.zero_()
                for row, weight in zip(flat, weights.tolist(), strict=True):
                    out.add_(row, alpha=weight)
        return combined


def shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tensors themselves, or this rank's shard of those that are ``DTensor``."""
    return [local(tensor) if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def cut(items: list[T], counts: Iterable[int]) -> list[list[T]]:
    """Splits a list into consecutive parts of the given lengths."""
    return [items[start:end] for start, end in pairwise(accumulate(counts, initial=0))]


def ratio(numerator: Tensor | float, denominator: Tensor) -> Tensor | float:
    """Returns the quotient; zero if the denominator is zero (or too small to divide by)."""
    # On the CPU, Python numbers are much faster than tensors of one element. Other devices are not
    # synchronised.
    tiny = torch.finfo(denominator.dtype).tiny
    if denominator.dim() == 0 and denominator.device.type == "cpu":
        divisor = denominator.item()
        return float(numerator) / divisor if divisor > tiny else 0.0
    return torch.where(denominator > tiny, numerator / denominator, 0.0)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype for reductions: the given one, or float32 if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """Returns the promoted dtype of the tensors."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _signature(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [(t.device, t.dtype, t.shape, t.stride()) for t in tensors]
