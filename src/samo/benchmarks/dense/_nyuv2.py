"""NYUv2: rooms, in the MTAN authors' files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from .._benchmark import Defaults
from ._dense import PUBLISHED, DensePrediction, split_parts
from ._layout import DEPTH, IMAGE, NORMALS, SEGMENTATION, load_parts

# fmt: off
CLASSES = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table",
    "tv", "wall", "window",
)
# fmt: on


@final
class NYUv2(DensePrediction):
    """Rooms: segmentation, depth and surface normals of 1,449 images, in the MTAN authors' files.

    The authors of MTAN publish the data at https://github.com/lorenmt/mtan: 795 images for training
    and 654 (``val``) for testing, 288 × 384 pixels, 13 classes, in
    ``{train,val}/{image,label,depth,normal}/<i>.npy``. Depth is in metres, 0 where nothing was
    measured; normals are unit vectors in the camera's frame, or zeros. The papers train on all of
    ``train`` and evaluate ``val`` after each epoch; here a part of ``train`` is held out for model
    selection, and ``val`` is the test split.

    ``samo data scenes --layout nyuv2`` generates files of this layout.

    Args:
        data: The directory with ``train`` and ``val``.
        validation: The share of ``train`` that is held out for validation.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage; 64 in the papers.
        seed: The seed of the validation split. It is not the seed of a run.

    Raises:
        DataError: If a file is missing or invalid.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = PUBLISHED

    def __init__(
        self,
        *,
        data: str | Path,
        validation: float = 0.1,
        network: str = "segnet-mtan",
        width: int = 64,
        seed: int = 0,
    ) -> None:
        self.data = str(data)
        self.validation = validation
        self.seed = seed
        parts = load_parts(data, (IMAGE, SEGMENTATION, DEPTH, NORMALS), len(CLASSES))
        super().__init__(
            split_parts(parts, validation, seed),
            (SEGMENTATION, DEPTH, NORMALS),
            CLASSES,
            network=network,
            width=width,
            depth_unit="m",
        )
