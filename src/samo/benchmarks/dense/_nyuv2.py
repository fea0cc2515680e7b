"""NYUv2: rooms, in the files of the MTAN authors."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from .._benchmark import Defaults
from ._dense import DensePrediction, split_parts
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

    The data is what the authors of MTAN publish at https://github.com/lorenmt/mtan: 795 images for
    training and 654 (``val``) for testing, 288 × 384 pixels, 13 classes, in
    ``{train,val}/{image,label,depth,normal}/<i>.npy``. Depth is in metres, 0 where nothing was
    measured; normals are unit vectors in the camera's frame, or zeros. The papers train on the
    whole of ``train`` and look at ``val`` after each epoch; here a part of ``train`` is held out
    for all choices, and ``val`` is the test.

    ``samo data scenes --layout nyuv2`` makes files of this layout.

    Args:
        data: The directory with ``train`` and ``val`` in it.
        validation: The share of ``train`` that is held out for validation.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage; 64 is what was published.
        seed: Decides which images are held out. It is not the seed of a run.

    Raises:
        DataError: If the files are not there, or not as they should be.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=200,
        batch_size=2,
        lr=1e-4,
        rho=0.001,
        rho_grid=(1e-5, 1e-4, 1e-3, 1e-2),
        schedule="step",
        average_last=10,
    )

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
