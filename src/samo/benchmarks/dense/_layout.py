"""A reader of the MTAN authors' files: one ``.npy`` file for each image and field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._arrays import mapped_array
from .._errors import DataError

IMAGE, SEGMENTATION, DEPTH, NORMALS = "image", "segmentation", "depth", "normals"
CHANNELS = {IMAGE: 3, SEGMENTATION: 1, DEPTH: 1, NORMALS: 3}
VOID = -1

Window = tuple[slice, slice]
WHOLE: Window = (slice(None), slice(None))


class Examples(Protocol):
    """Images with their targets, as `DenseBatches` reads them."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image."""

    def __len__(self) -> int:
        """The number of images."""

    def read(self, index: int, fields: Iterable[str], window: Window = WHOLE) -> dict[str, Tensor]:
        """Reads a window of an image: float32 by field, shape ``[channels, h, w]``."""


@dataclass(frozen=True)
class _Form:
    """The directory and the shape of the files of a field.

    Attributes:
        folders: The possible names of the directory.
        channels: The size of the last axis; None if the files have only two axes.
    """

    folders: tuple[str, ...]
    channels: int | None

    def shape(self, height: Any, width: Any) -> tuple[Any, ...]:
        return (height, width) if self.channels is None else (height, width, self.channels)


class LayoutExamples:
    """One part of a data set in the layout of the MTAN authors' files, memory-mapped.

    The files are ``{image,label,depth,normal}/<i>.npy``: floating-point numbers of shape
    ``[H, W, C]``, and labels of shape ``[H, W]``, whole numbers with −1 for void. All images must
    have the size of the first. The constructor checks the headers of all files, `read` the values.
    Reading a file never runs code from it.

    Args:
        root: The directory of the part, for instance ``DIR/train``.
        fields: The fields to read: ``image``, ``segmentation``, ``depth`` or ``normals``.
        classes: The number of classes. Labels are in ``label_<classes>`` (as in the MTAN authors'
            files of Cityscapes) or in ``label``.

    Raises:
        DataError: If a directory or a file is missing, or a file is invalid.
    """

    def __init__(self, root: Path, fields: Iterable[str], classes: int) -> None:
        forms = {
            IMAGE: _Form(("image",), 3),
            SEGMENTATION: _Form((f"label_{classes}", "label"), None),
            DEPTH: _Form(("depth",), 1),
            NORMALS: _Form(("normal",), 3),
        }
        self.root = root
        self.classes = classes
        self._forms = {field: forms[field] for field in fields}
        self._folders = {field: self._folder(form) for field, form in self._forms.items()}
        self._numbers = self._paired()
        first = mapped_array(self._file(IMAGE, 0))
        if first.ndim != 3:
            raise DataError(
                f"{self._file(IMAGE, 0)}: the shape must be (H, W, 3); found {first.shape}."
            )
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])
        for field in self._forms:
            for index in range(len(self)):
                self._open(field, index)

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int, fields: Iterable[str], window: Window = WHOLE) -> dict[str, Tensor]:
        """Returns a window of an image: each field in float32, shape ``[channels, h, w]``.

        Raises:
            DataError: If a value is not finite, or a label is not a class.
        """
        found = {}
        for field in fields:
            with np.errstate(over="ignore"):  # a value that overflows is reported below
                part = np.array(self._open(field, index)[window], dtype=np.float32)
            if field == SEGMENTATION:
                self._check_labels(part, index)
            elif not np.isfinite(part).all():
                raise DataError(f"{self._file(field, index)}: a value is not finite.")
            channels = part[None] if part.ndim == 2 else np.moveaxis(part, -1, 0)
            found[field] = torch.from_numpy(np.ascontiguousarray(channels))
        return found

    def _folder(self, form: _Form) -> Path:
        for name in form.folders:
            if (self.root / name).is_dir():
                return self.root / name
        names = ", ".join(f"{f.folders[-1]} {f.shape('H', 'W')}" for f in self._forms.values())
        raise DataError(
            f"there is no directory {self.root / form.folders[-1]}. Expected are "
            f"DIR/train and DIR/val, each with <i>.npy in {names}".replace("'", "")
            + "."
        )

    def _paired(self) -> list[int]:
        """Returns the numbers of the images; each field must have the same."""
        numbers = {field: _numbers(folder) for field, folder in self._folders.items()}
        every = sorted(set().union(*numbers.values()))
        for field, folder in self._folders.items():
            for number in every:
                if number not in numbers[field]:
                    other = next(f for f in numbers if number in numbers[f])
                    raise DataError(
                        f"{folder / f'{number}.npy'} is missing: "
                        f"{self._folders[other] / f'{number}.npy'} has no counterpart."
                    )
        if not every:
            raise DataError(f"{self._folders[IMAGE]} contains no <i>.npy.")
        return every

    def _file(self, field: str, index: int) -> Path:
        return self._folders[field] / f"{self._numbers[index]}.npy"

    def _open(self, field: str, index: int) -> np.ndarray:
        path = self._file(field, index)
        array = mapped_array(path)
        expected = self._forms[field].shape(*self.size)
        if array.shape != expected:
            raise DataError(f"{path}: the shape must be {expected}; found {array.shape}.")
        if array.dtype.kind not in ("fiu" if field == SEGMENTATION else "f"):
            what = "numbers" if field == SEGMENTATION else "floating-point numbers"
            raise DataError(f"{path} must contain {what}; found {array.dtype}.")
        return array

    def _check_labels(self, labels: np.ndarray, index: int) -> None:
        wrong = (labels < VOID) | (labels >= self.classes) | (labels != np.floor(labels))
        wrong |= np.isnan(labels)
        if wrong.any():
            raise DataError(
                f"{self._file(SEGMENTATION, index)}: labels must be whole numbers in "
                f"0..{self.classes - 1}, or {VOID} for void; found {labels[wrong][0]:g}."
            )


def _numbers(folder: Path) -> set[int]:
    names = [path.stem for path in folder.glob("*.npy")]
    for name in names:
        if not (name.isascii() and name.isdigit() and str(int(name)) == name):
            raise DataError(f"{folder / name}.npy: the name must be a number, such as 0.npy.")
    return {int(name) for name in names}


def load_parts(
    data: str | Path, fields: Iterable[str], classes: int
) -> Mapping[str, LayoutExamples]:
    """Returns the parts ``"train"`` and ``"val"`` of a data set.

    Raises:
        DataError: If a file is missing or invalid.
    """
    root, chosen = Path(data).expanduser(), list(fields)
    parts = {name: LayoutExamples(root / name, chosen, classes) for name in ("train", "val")}
    sizes = {name: part.size for name, part in parts.items()}
    if sizes["train"] != sizes["val"]:
        raise DataError(
            f"{root}: images of train are {sizes['train']}, those of val {sizes['val']}; they must "
            f"have one size."
        )
    return parts
