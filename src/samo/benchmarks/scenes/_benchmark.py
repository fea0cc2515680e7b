"""Rendered rooms as a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from .._benchmark import Defaults, Split
from .._checks import check_at_least
from ..dense import DEPTH, IMAGE, NORMALS, SEGMENTATION, WHOLE, DensePrediction, Window
from ._layouts import LAYOUTS, arrays, remembered

_FIELDS = {IMAGE: "image", SEGMENTATION: "label", DEPTH: "depth", NORMALS: "normal"}
_PARTS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class RenderedExamples:
    """Rooms that are rendered on first access and then cached, see `rendered`."""

    seed: int
    part: int
    n: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.n

    def read(self, index: int, fields: Iterable[str], window: Window = WHOLE) -> dict[str, Tensor]:
        """Reads a window of an image: each field in float32, shape ``[channels, h, w]``."""
        files = arrays("nyuv2", remembered("nyuv2", self.seed, self.part, index, self.size))
        parts = {field: files[_FIELDS[field]][window] for field in fields}
        return {
            field: torch.from_numpy(
                np.array(part[None] if part.ndim == 2 else np.moveaxis(part, -1, 0), order="C")
            )
            for field, part in parts.items()
        }


@final
class Scenes(DensePrediction):
    """Rendered rooms: segmentation, depth and normals as in NYUv2, without any file.

    Rooms with furniture, made of planes, boxes and spheres with procedural textures, a lamp that
    casts shadows, and a noisy camera; the thirteen classes are those of NYUv2, and depth (in
    metres) and normals are exact in every pixel. Each image depends on the seed and its number
    alone, and is rendered on first access.

    Args:
        images: The number of training images.
        held_out: The number of validation images, and also of test images.
        size: Height and width in pixels, multiples of 32.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage.
        seed: The seed of the data. It is not the seed of a run: all runs see the same data.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> benchmark = Scenes(images=4, size=(32, 64))
        >>> batch = next(iter(benchmark.batches("train", benchmark.tasks, batch_size=2)))
        >>> {name: tuple(values.shape) for name, values in batch.items()}
        {'image': (2, 3, 32, 64), 'segmentation': (2, 32, 64), 'depth': (2, 1, 32, 64),
         'normals': (2, 3, 32, 64)}
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=10,
        batch_size=4,
        lr=2e-3,
        rho=0.05,
        rho_grid=(0.01, 0.02, 0.05, 0.1),
        schedule="cosine",
    )

    def __init__(
        self,
        *,
        images: int = 800,
        held_out: int = 100,
        size: Sequence[int] = (96, 128),
        network: str = "segnet-mtan",
        width: int = 8,
        seed: int = 0,
    ) -> None:
        check_at_least(1, images=images, held_out=held_out)
        check_at_least(0, seed=seed)
        if len(size) != 2:
            raise ValueError(f"size must be height and width; found {tuple(size)}.")
        self.images = images
        self.held_out = held_out
        self.size = (size[0], size[1])
        self.seed = seed
        counts = (images, held_out, held_out)
        parts = {
            split: (RenderedExamples(seed, part, n, self.size), torch.arange(n))
            for part, (split, n) in enumerate(zip(_PARTS, counts, strict=True))
        }
        super().__init__(
            parts,
            (SEGMENTATION, DEPTH, NORMALS),
            LAYOUTS["nyuv2"].classes,
            network=network,
            width=width,
            depth_unit="m",
        )
