"""Scenes as files, in the layout that the MTAN authors' loaders and ours read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...records import read_json, write_atomically, write_json
from .._errors import DataError
from .._names import unknown
from ._layouts import LAYOUTS, arrays, rendered

_RECORD = "scenes.json"


@dataclass(frozen=True)
class Order:
    """What to write.

    Args:
        layout: ``"nyuv2"`` (rooms, with normals) or ``"cityscapes"`` (streets, inverse depth).
        train: The number of images in ``train``.
        val: The number of images in ``val``.
        seed: The seed of the data.
        height: The height of the images; a multiple of 32.
        width: Their width; a multiple of 32.

    Raises:
        DataError: If an argument is out of its range.
    """

    layout: str
    train: int
    val: int
    seed: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise DataError(unknown("layout", self.layout, LAYOUTS))
        for name, least in (("train", 2), ("val", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise DataError(f"{name} must be at least {least}; found {getattr(self, name)}.")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 32 or value % 32:
                raise DataError(f"{name} must be a multiple of 32; found {value}.")


def write_scenes(
    order: Order, out: Path | str, watch: Callable[[int, int], None] | None = None
) -> None:
    """Writes images as ``{train,val}/{image,label,depth[,normal]}/<i>.npy``.

    Each file is written beside its place and renamed into it. ``scenes.json`` keeps what was asked
    for: a directory with the same order goes on where it was interrupted.

    Args:
        order: What to write.
        out: The directory: empty, not there yet, or begun with the same order.
        watch: Is told how many images of how many are there.

    Raises:
        DataError: If the directory holds anything else, or cannot be written to.
    """
    out = Path(out)
    try:
        _begin(order, out)
        total = order.train + order.val
        for part, (name, n) in enumerate((("train", order.train), ("val", order.val))):
            for index in range(n):
                _write(order, out / name, part, index)
                if watch:
                    watch(index + 1 + (order.train if part else 0), total)
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error}.") from error


def _begin(order: Order, out: Path) -> None:
    record = out / _RECORD
    wanted = {"made by": "samo data scenes", **asdict(order)}
    if record.exists():
        if (found := read_json(record)) != wanted:
            raise DataError(f"{record} is of other scenes: {found}. Name another directory.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty directory. Name another one.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(record, wanted)


def _write(order: Order, out: Path, part: int, index: int) -> None:
    """Writes the files of an image, if one is missing."""
    kind = LAYOUTS[order.layout]
    names = ["image", "label", "depth"] + ["normal"] * kind.normals
    paths = {name: out / name / f"{index}.npy" for name in names}
    if all(path.exists() for path in paths.values()):
        return
    image = rendered(order.layout, order.seed, part, index, (order.height, order.width))
    files = arrays(order.layout, image)
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(_save, files[name]))


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # np.save itself would append .npy to the name
        np.save(file, array, allow_pickle=False)
