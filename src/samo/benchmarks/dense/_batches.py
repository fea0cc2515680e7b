"""Batches of images: shuffled, augmented, and loaded ahead of training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ._layout import CHANNELS, DEPTH, IMAGE, NORMALS, SEGMENTATION, VOID, WHOLE, Examples

SCALES = (1.0, 1.2, 1.5)
# Threads, because what takes time (copying from the mapped files, resizing) does without the
# interpreter's lock; two of them, so that one loads while another waits for the disk.
_THREADS = 2
_AHEAD = 4

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Change:
    """What augmentation does to one image.

    Attributes:
        scale: How much larger what is seen becomes: a window of 1/scale of height and width is cut
            out and resized.
        top: Where the window lies, in [0, 1]: 0 at the top, 1 at the bottom.
        left: The same from left to right.
        mirrored: Whether left and right are exchanged.
    """

    scale: float = 1.0
    top: float = 0.0
    left: float = 0.0
    mirrored: bool = False


def drawn(n: int, generator: Generator) -> list[Change]:
    """Draws the changes of n images: scale, place and mirroring, each with equal chances.

    Args:
        n: How many.
        generator: What they are drawn from.

    Returns:
        The changes.
    """
    scales = torch.randint(len(SCALES), (n,), generator=generator)
    places = torch.rand(n, 2, generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator)
    return [
        Change(SCALES[scale], top, left, bool(flip))
        for scale, (top, left), flip in zip(
            scales.tolist(), places.tolist(), mirrored.tolist(), strict=True
        )
    ]


def augmented(
    examples: Examples, index: int, fields: Iterable[str], change: Change
) -> dict[str, Tensor]:
    """Reads an image with random scale, crop and mirroring, as the MTAN authors do.

    The image and the normals are resized bilinearly (corners aligned), labels and depth take the
    nearest pixel. What is seen larger by a factor is nearer by it: depth is divided by the scale.
    In the mirror, x of a normal changes its sign. Only the window is read.

    Args:
        examples: The images.
        index: Which one.
        fields: The fields wanted.
        change: What to do.

    Returns:
        Each field, shape ``[channels, H, W]``.
    """
    height, width = examples.size
    if change.scale == 1.0:
        found = examples.read(index, fields, WHOLE)
    else:
        h, w = int(height / change.scale), int(width / change.scale)
        top = min(int(change.top * (height - h + 1)), height - h)
        left = min(int(change.left * (width - w + 1)), width - w)
        window = (slice(top, top + h), slice(left, left + w))
        found = {
            field: _resized(field, part, (height, width))
            for field, part in examples.read(index, fields, window).items()
        }
        if DEPTH in found:
            found[DEPTH] /= change.scale
    if change.mirrored:
        found = {field: part.flip(2) for field, part in found.items()}
        if NORMALS in found:
            found[NORMALS][0].neg_()
    return found


def _resized(field: str, part: Tensor, size: tuple[int, int]) -> Tensor:
    if field in (IMAGE, NORMALS):
        return F.interpolate(part[None], size=size, mode="bilinear", align_corners=True)[0]
    return F.interpolate(part[None], size=size, mode="nearest")[0]


@dataclass(frozen=True)
class DenseBatches:
    """Batches by field, loaded by threads ahead of their use.

    A batch maps ``"image"`` to float32 of shape ``[N, 3, H, W]`` and each task that it is for to
    its targets: ``"segmentation"`` to labels of shape ``[N, H, W]``, ``"depth"`` to
    ``[N, 1, H, W]``, ``"normals"`` to ``[N, 3, H, W]``. A task that no pixel of the batch has a
    target for is left out of it.

    All that is random in an epoch is drawn when it begins, so that the order in which threads end
    cannot matter.

    Args:
        examples: The images.
        chosen: The indices of those to take.
        tasks: The tasks that the batches are for.
        batch_size: The number of images a batch; the last may be smaller.
        generator: Shuffles and augments; None keeps order and images as they are.
    """

    examples: Examples
    chosen: Tensor
    tasks: tuple[str, ...]
    batch_size: int
    generator: Generator | None = None

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        indices = self.chosen
        changes = [Change()] * len(indices)
        if self.generator is not None:
            indices = indices[torch.randperm(len(indices), generator=self.generator)]
            changes = drawn(len(indices), self.generator)
        plan = list(zip(indices.tolist(), changes, strict=True))
        batches = [plan[i : i + self.batch_size] for i in range(0, len(plan), self.batch_size)]
        yield from _ahead(self._load, batches)

    def _load(self, plan: list[tuple[int, Change]]) -> dict[str, Tensor]:
        fields = (IMAGE, *self.tasks)
        shapes = {field: (len(plan), CHANNELS[field], *self.examples.size) for field in fields}
        batch = {field: torch.empty(shape) for field, shape in shapes.items()}
        for position, (index, change) in enumerate(plan):
            for field, part in augmented(self.examples, index, fields, change).items():
                batch[field][position] = part
        if SEGMENTATION in batch:
            batch[SEGMENTATION] = batch[SEGMENTATION][:, 0].long()
        return {field: part for field, part in batch.items() if field == IMAGE or _any(field, part)}


def _any(field: str, target: Tensor) -> bool:
    """Whether a pixel has a target."""
    return bool((target != (VOID if field == SEGMENTATION else 0)).any())


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Maps in order, a few items ahead of the one that is asked for."""
    pending: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="samo-loader") as pool:
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
