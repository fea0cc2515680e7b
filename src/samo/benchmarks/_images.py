"""Image files that are decoded once into a memory-mapped file, and batches of them."""

from __future__ import annotations

import hashlib
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from ..records import RunError, write_atomically
from ._arrays import mapped_array
from ._batches import index_batches
from ._errors import DataError

# The number of images decoded at a time: they are kept in memory, and an interrupt waits for them.
_CHUNK = 512
# Progress is reported for at least this many images; fewer are decoded in seconds.
_REPORTED = 5_000
_CHECKSUM = 4  # bytes


def unit_range(x: Tensor) -> Tensor:
    """Scales uint8 pixels to [0, 1]; returns floating-point pixels as they are."""
    return x if x.is_floating_point() else x / 255


def decoded(files: Sequence[Path], side: int, cache: Path, name: str) -> Tensor:
    """Decodes images to RGB and resizes them to a square (bilinearly), once.

    The pixels are stored in a memory-mapped file in `cache`, which several processes share. Its
    name contains a digest of the names, sizes and modification times of the images: if one changes,
    all are decoded again. It is written atomically, and its checksum is verified when it is opened.

    Args:
        files: The image files.
        side: The side of the square in pixels.
        cache: The directory of the file; it is created if necessary.
        name: The prefix of the file's name.

    Returns:
        uint8, shape ``[len(files), 3, side, side]``, memory-mapped.

    Raises:
        DataError: If an image cannot be decoded, or the cache cannot be written or is damaged.
    """
    # Imported here, because benchmarks without images do not need it.
    from filelock import FileLock

    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(
            f"{file.parent.name}/{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
        )
    shape = (len(files), 3, side, side)
    path = cache / f"{name}-{side}x{side}-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():  # another process may have written it
                    _write(path, files, shape)
        except (OSError, RunError) as error:
            raise DataError(
                f"{path} cannot be written ({error}). It needs {np.prod(shape) / 1e9:.1f} GB; "
                f"set `cache` to another directory."
            ) from error
    return _mapped(path, shape)


def _write(path: Path, files: Sequence[Path], shape: tuple[int, ...]) -> None:
    """Writes the pixels as ``.npy``, followed by their CRC-32."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}

    def write(out: BinaryIO) -> None:
        reported = checksum = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            np.lib.format.write_array_header_1_0(out, header)
            for start in range(0, len(files), _CHUNK):
                if len(files) >= _REPORTED and start >= reported:
                    print(
                        f"samo: {start} of {len(files)} images decoded into {path}", file=sys.stderr
                    )
                    reported += len(files) // 10
                # Decoding and resizing release the GIL, so threads are enough.
                chunk = files[start : start + _CHUNK]
                for pixels in pool.map(partial(_decode, side=shape[-1]), chunk):
                    checksum = zlib.crc32(pixels, checksum)
                    out.write(pixels)
        out.write(checksum.to_bytes(_CHECKSUM))

    write_atomically(path, write)


def _intact(path: Path, pixels: NDArray[np.uint8]) -> bool:
    """Whether the pixels in a file match the checksum that follows them."""
    with path.open("rb") as file:
        file.seek(-_CHECKSUM, os.SEEK_END)
        expected = int.from_bytes(file.read())
    checksum = 0
    for start in range(0, len(pixels), _CHUNK):
        checksum = zlib.crc32(pixels[start : start + _CHUNK].data, checksum)
    return checksum == expected


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
        # Copy on write, since PyTorch expects writable memory; nothing is written back.
        pixels: NDArray[np.uint8] = mapped_array(path, "c")
        if pixels.shape != shape or pixels.dtype != np.uint8:
            fault = (
                f"it contains {pixels.dtype} of shape {pixels.shape} instead of uint8 of {shape}"
            )
        elif not _intact(path, pixels):
            fault = "its pixels do not match their checksum"
    except DataError as error:
        raise DataError(f"{error} Delete it to create it again.") from error
    if fault:
        raise DataError(f"{path} is damaged: {fault}. Delete it to create it again.")
    return torch.from_numpy(pixels)


@dataclass(frozen=True)
class ImageBatches:
    """Batches of images and labels.

    The pixels stay uint8 and are scaled on the device, for a quarter of the traffic.

    Args:
        pixels: All images, uint8, shape ``[N, 3, side, side]``; may be memory-mapped.
        labels: Their labels, shape ``[N]`` or ``[N, tasks]``.
        rows: The indices of the images to use.
        batch_size: The number of images per batch.
        generator: Shuffles anew at each iteration and draws the crops. An incomplete last batch is
            then dropped unless it is the only one (batch normalisation fails on a single image).
            None keeps the order and all images, and crops the centre.
        crop: The side of a square that is cropped from each image; with a generator, at a random
            position and mirrored with probability 1/2. None for whole images.

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
        batches = index_batches(len(self.rows), self.batch_size, self.generator)
        for indices in islice(batches, len(self)):
            chosen = self.rows[indices]
            if self.crop is None:
                x = self.pixels.index_select(0, chosen)  # ten times as fast as indexing
            else:
                x = self._cropped(chosen, self.crop)
            yield x, self.labels[chosen]

    def _cropped(self, rows: Tensor, side: int) -> Tensor:
        """Reads only a square of each image."""
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
