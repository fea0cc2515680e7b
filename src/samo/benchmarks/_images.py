"""Image files, decoded once into a memory-mapped file, and batches of them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ._errors import DataError

# Decoded at a time: what an interrupt waits for, and what is held in memory.
_CHUNK = 512
# Fewer are decoded in seconds.
_WORTH_A_WORD = 5_000


def decoded(files: Sequence[Path], side: int, cache: Path, name: str) -> Tensor:
    """Decodes images to RGB and resizes them to a square (bilinearly), once.

    The pixels are kept in a file of `cache` that is memory-mapped: it takes no memory that others
    need, and several processes share it. Its name has a digest of the files' names, sizes and times
    of change: if one changes, all are decoded again. It is written beside its place and renamed
    into it, so an interrupt leaves none.

    Args:
        files: The image files.
        side: The side of the square in pixels.
        cache: The directory for the file; it is made if need be.
        name: What the file's name begins with.

    Returns:
        uint8, shape ``[len(files), 3, side, side]``, memory-mapped.

    Raises:
        DataError: If an image cannot be decoded, or the cache cannot be written or is damaged.
    """
    # Not needed by benchmarks without images.
    from filelock import FileLock

    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(
            f"{file.parent.name}/{file.name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode()
        )
    shape = (len(files), 3, side, side)
    path = cache / f"{name}-{side}x{side}-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():  # another process may have been at it
                    _write(path, files, shape)
        except OSError as error:
            raise DataError(
                f"{path} cannot be written ({error}). It takes {np.prod(shape) / 1e9:.1f} GB; "
                f"`cache` names another directory for it."
            ) from error
    return _mapped(path, shape)


def _write(path: Path, files: Sequence[Path], shape: tuple[int, ...]) -> None:
    beside = path.with_name(f"{path.name}.new")
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    told = 0
    try:
        with beside.open("wb") as out, ThreadPoolExecutor(os.cpu_count()) as pool:
            np.lib.format.write_array_header_1_0(out, header)
            for start in range(0, len(files), _CHUNK):
                if len(files) >= _WORTH_A_WORD and start >= told:
                    print(
                        f"samo: {start} of {len(files)} images decoded into {path}", file=sys.stderr
                    )
                    told += len(files) // 10
                # Decoding and resizing let go of the interpreter, so threads are enough.
                chunk = files[start : start + _CHUNK]
                out.writelines(pool.map(partial(_decode, side=shape[-1]), chunk))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _decode(file: Path, side: int) -> bytes:
    from PIL import Image

    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    # Pillow raises SyntaxError for some broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be decoded as an image ({error}).") from error
    return np.asarray(small).transpose(2, 0, 1).tobytes()


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    fault = ""
    try:
        # Copy on write: PyTorch wants writable memory, and nothing is ever written back.
        pixels: NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
        if pixels.shape != shape or pixels.dtype != np.uint8:
            fault = (
                f"it holds {pixels.dtype} of shape {pixels.shape}, and should hold uint8 of {shape}"
            )
    except (ValueError, EOFError) as error:
        fault = str(error)
    if fault:
        raise DataError(f"{path} has been damaged: {fault}. Delete it, to have it made again.")
    return torch.from_numpy(pixels)


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images and labels.

    The pixels stay uint8: a fourth of the traffic to the device, and scaled there.

    Args:
        pixels: All images, uint8, shape ``[N, 3, side, side]``; may be memory-mapped.
        labels: Their labels, shape ``[N]`` or ``[N, tasks]``.
        rows: Which of them.
        batch_size: The number of images a batch.
        generator: Shuffles, anew at each iteration, crops, and leaves out a last batch that is not
            full (batch normalisation cannot do with a single image) if it is not the only one. None
            keeps the order, all images, and the middle of each.
        crop: The side of a square that is cut out of each image: at random and mirrored in every
            second case, if there is a generator. None for whole images.

    Example:
        >>> pixels, labels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.arange(5)
        >>> batches = ImageBatches(pixels, labels, torch.tensor([4, 1, 3]), batch_size=2, crop=6)
        >>> [(list(x.shape), y.tolist()) for x, y in batches]
        [([2, 3, 6, 6], [4, 1]), ([1, 3, 6, 6], [3])]
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor
    batch_size: int
    generator: Generator | None = None
    crop: int | None = None

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return full if full and self.generator is not None else full + bool(rest)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self.rows
        if self.generator is not None:
            rows = rows[torch.randperm(len(rows), generator=self.generator)]
        for chosen in rows.split(self.batch_size)[: len(self)]:
            if self.crop is None:
                x = self.pixels.index_select(0, chosen)  # ten times as fast as an index
            else:
                x = self._cut(chosen, self.crop)
            yield x, self.labels[chosen]

    def _cut(self, rows: Tensor, side: int) -> Tensor:
        """Reads a square of each image, and nothing around it."""
        n, spare = len(rows), self.pixels.shape[-1] - side
        if self.generator is None:
            corners = torch.full((n, 2), spare // 2)
            mirrored = torch.zeros(n, dtype=torch.bool)
        else:
            corners = torch.randint(spare + 1, (n, 2), generator=self.generator)
            mirrored = torch.rand(n, generator=self.generator) < 0.5
        out = self.pixels.new_empty(n, self.pixels.shape[1], side, side)
        places = zip(rows.tolist(), corners.tolist(), mirrored.tolist(), strict=True)
        for to, (row, (top, left), mirror) in zip(out, places, strict=True):
            square = self.pixels[row, :, top : top + side, left : left + side]
            to.copy_(square.flip(-1) if mirror else square)
        return out
