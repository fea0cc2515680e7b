"""A strict reader of MNIST's idx files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .._errors import DataError
from .._folders import raise_missing

SIDE = 28
CLASSES = 10

_GZIP = b"\x1f\x8b"
_UINT8 = 8
_LARGEST = 1 << 30  # bytes; the largest set of this kind, EMNIST, has 640 MB
_IMAGES = "{part}-images-idx3-ubyte"
_LABELS = "{part}-labels-idx1-ubyte"

LAYOUT = ("{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",)


def read_labelled(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Reads the images and the labels of one part, ``"train"`` or ``"t10k"``.

    Returns:
        Images, shape ``[N, 28, 28]``, and labels, 0 to 9, shape ``[N]``.

    Raises:
        DataError: If a file is missing or invalid, or the two do not match.
    """
    images_file = _found(folder / _IMAGES.format(part=part))
    labels_file = _found(folder / _LABELS.format(part=part))
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if images.shape[1:] != (SIDE, SIDE):
        size = " × ".join(map(str, images.shape[1:]))
        raise DataError(f"{images_file}: images must have {SIDE} × {SIDE} pixels; found {size}.")
    if not len(images):
        raise DataError(f"{images_file} contains no images.")
    if len(images) != len(labels):
        raise DataError(
            f"{images_file} contains {len(images)} images, but {labels_file} contains "
            f"{len(labels)} labels."
        )
    wrong = np.flatnonzero(labels >= CLASSES)
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{labels_file}: labels must be in 0..{CLASSES - 1}; found {labels[first]} at index "
            f"{first}."
        )
    return images, labels


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Returns the values of a file of unsigned bytes in the idx format.

    The format: four bytes of magic number (0, 0, 8 for unsigned bytes, the number of dimensions),
    the sizes as big-endian 32-bit integers, the values. Gzip is detected from the content.

    Raises:
        DataError: If it is another kind of file, has another number of dimensions, or its length
            does not agree with its header.
    """
    with _opened(path) as file:
        magic, sizes = file.read(4), file.read(4 * dimensions)
        shape = _shape(path, magic, sizes, dimensions)
        n = math.prod(shape)
        # Not more than the header says: a small gzip file may hold any number of bytes.
        values = file.read(n + 1)
    if len(values) != n:
        size = " × ".join(map(str, shape))
        follow = f"{len(values)} follow" if len(values) < n else "more follow"
        fault = "truncated" if len(values) < n else "too long"
        raise DataError(f"{path}: {fault}: its header says {size} = {n} bytes; {follow}.")
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(path: Path, magic: bytes, sizes: bytes, dimensions: int) -> tuple[int, ...]:
    """Returns the sizes in the header of a file."""
    expected = bytes([0, 0, _UINT8, dimensions])
    if magic != expected:
        raise DataError(
            f"{path}: not an idx file of unsigned bytes with {dimensions} dimension(s): it should "
            f"begin with {_hex(expected)}; it begins with {_hex(magic) or 'nothing'}."
        )
    if len(sizes) < 4 * dimensions:
        raise DataError(f"{path}: truncated: it ends within its header.")
    shape = tuple(np.frombuffer(sizes, dtype=">u4").tolist())
    if math.prod(shape) > _LARGEST:
        size = " × ".join(map(str, shape))
        raise DataError(f"{path}: its header says {size} bytes, more than {_LARGEST >> 30} GiB.")
    return shape


def _found(path: Path) -> Path:
    """Returns the file, or the file with ``.gz`` appended."""
    gzipped = path.with_name(f"{path.name}.gz")
    if not path.is_file() and not gzipped.is_file():
        raise_missing(path.with_name(f"{path.name}[.gz]"), LAYOUT)
    return path if path.is_file() else gzipped


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, gzipped or not; raises DataError if it cannot be read."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.peek(2).startswith(_GZIP)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if gzipped else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip file is truncated or damaged ({error}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _hex(data: Any) -> str:
    return bytes(data).hex(" ")
