"""Batches of images that are shuffled, augmented and prefetched."""

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
# Threads, because copying from the mapped files and resizing release the GIL; two of them, so that
# one loads while the other waits for the disk.
_THREADS = 2
_AHEAD = 4

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one image.

    Attributes:
        scale: The magnification: a window of 1/scale of height and width is cropped and resized.
        top: The position of the window in [0, 1]: 0 at the top, 1 at the bottom.
        left: The same from left to right.
        mirrored: Whether the image is flipped horizontally.
    """

    scale: float = 1.0
    top: float = 0.0
    left: float = 0.0
    mirrored: bool = False


def random_augmentations(n: int, generator: Generator) -> list[Augmentation]:
    """Draws scale, position and mirroring of n images, each from a uniform distribution."""
    scales = torch.randint(len(SCALES), (n,), generator=generator)
    places = torch.rand(n, 2, generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator)
    return [
        Augmentation(SCALES[scale], top, left, bool(flip))
        for scale, (top, left), flip in zip(
            scales.tolist(), places.tolist(), mirrored.tolist(), strict=True
        )
    ]


def augmented(
    examples: Examples, index: int, fields: Iterable[str], how: Augmentation
) -> dict[str, Tensor]:
    """Reads an image with an augmentation of the MTAN authors.

    The image and the normals are resized bilinearly (corners aligned), labels and depth take the
    nearest pixel. Depth is divided by the scale, since magnified objects are closer. Mirroring
    negates the x component of normals. Only the window is read.

    Returns:
        Each field, shape ``[channels, H, W]``.
    """
    height, width = examples.size
    if how.scale == 1.0:
        found = examples.read(index, fields, WHOLE)
    else:
        h, w = int(height / how.scale), int(width / how.scale)
        top = min(int(how.top * (height - h + 1)), height - h)
        left = min(int(how.left * (width - w + 1)), width - w)
        window = (slice(top, top + h), slice(left, left + w))
        found = {
            field: _resized(field, part, (height, width))
            for field, part in examples.read(index, fields, window).items()
        }
        if DEPTH in found:
            found[DEPTH] /= how.scale
    if how.mirrored:
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
    """Batches by field, prefetched by threads.

    A batch maps ``"image"`` to float32 of shape ``[N, 3, H, W]`` and each requested task to its
    targets: ``"segmentation"`` to labels of shape ``[N, H, W]``, ``"depth"`` to ``[N, 1, H, W]``,
    ``"normals"`` to ``[N, 3, H, W]``. A task without a target in any pixel of the batch is left
    out.

    All random numbers of an epoch are drawn at its start, so they do not depend on the timing of
    the threads.

    Args:
        examples: The images.
        chosen: The indices of the images to use.
        tasks: The requested tasks.
        batch_size: The number of images per batch; the last may be smaller.
        generator: Shuffles and augments; None leaves order and images unchanged.
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
        augmentations = [Augmentation()] * len(indices)
        if self.generator is not None:
            indices = indices[torch.randperm(len(indices), generator=self.generator)]
            augmentations = random_augmentations(len(indices), self.generator)
        plan = list(zip(indices.tolist(), augmentations, strict=True))
        batches = [plan[i : i + self.batch_size] for i in range(0, len(plan), self.batch_size)]
        yield from prefetched(self._load, batches)

    def _load(self, plan: list[tuple[int, Augmentation]]) -> dict[str, Tensor]:
        fields = (IMAGE, *self.tasks)
        shapes = {field: (len(plan), CHANNELS[field], *self.examples.size) for field in fields}
        batch = {field: torch.empty(shape) for field, shape in shapes.items()}
        for position, (index, how) in enumerate(plan):
            for field, part in augmented(self.examples, index, fields, how).items():
                batch[field][position] = part
        if SEGMENTATION in batch:
            batch[SEGMENTATION] = batch[SEGMENTATION][:, 0].long()
        return {
            field: part
            for field, part in batch.items()
            if field == IMAGE or _has_target(field, part)
        }


def _has_target(field: str, target: Tensor) -> bool:
    """Returns whether any pixel has a target."""
    return bool((target != (VOID if field == SEGMENTATION else 0)).any())


def prefetched(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Maps a function over items in order, in threads that are a few items ahead."""
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
