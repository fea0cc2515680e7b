"""Writes scenes to files, in the layout of the MTAN authors' data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..._names import unknown
from ...records import read_json, write_atomically, write_json
from .._errors import DataError
from ._layouts import LAYOUTS, arrays, rendered

_RECORD = "scenes.json"


@dataclass(frozen=True)
class SceneSet:
    """The scenes to write.

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
    scenes: SceneSet, out: Path | str, watch: Callable[[int, int], None] | None = None
) -> None:
    """Writes images as ``{train,val}/{image,label,depth[,normal]}/<i>.npy``.

    Each file is written atomically. ``scenes.json`` records the arguments, so that a call with the
    same arguments continues after an interrupt.

    Args:
        scenes: The scenes.
        out: The directory: new, empty, or with a part of the same scenes.
        watch: Called with the number of finished images and their total number.

    Raises:
        DataError: If the directory contains anything else, or cannot be written to.
    """
    out = Path(out)
    try:
        _begin(scenes, out)
        total = scenes.train + scenes.val
        for part, (name, n) in enumerate((("train", scenes.train), ("val", scenes.val))):
            for index in range(n):
                _write(scenes, out / name, part, index)
                if watch:
                    watch(index + 1 + (scenes.train if part else 0), total)
    except OSError as error:
        raise DataError(f"{out} cannot be written to: {error}.") from error


def _begin(scenes: SceneSet, out: Path) -> None:
    record = out / _RECORD
    wanted = {"made by": "samo data scenes", **asdict(scenes)}
    if record.exists():
        if (found := read_json(record)) != wanted:
            raise DataError(f"{record} describes other scenes: {found}. Choose another directory.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty directory. Choose another one.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(record, wanted)


def _write(scenes: SceneSet, out: Path, part: int, index: int) -> None:
    """Writes the files of an image, unless they all exist."""
    kind = LAYOUTS[scenes.layout]
    names = ["image", "label", "depth"] + ["normal"] * kind.normals
    paths = {name: out / name / f"{index}.npy" for name in names}
    if all(path.exists() for path in paths.values()):
        return
    image = rendered(scenes.layout, scenes.seed, part, index, (scenes.height, scenes.width))
    files = arrays(scenes.layout, image)
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(np.save, arr=files[name], allow_pickle=False))
