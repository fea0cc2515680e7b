"""Cityscapes: streets, in the files of the MTAN authors."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from .._benchmark import Defaults
from ._dense import DensePrediction, split_parts
from ._layout import DEPTH, IMAGE, SEGMENTATION, load_parts

# fmt: off
CLASSES = {
    7: ("flat", "construction", "object", "nature", "sky", "human", "vehicle"),
    19: (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
        "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
        "motorcycle", "bicycle",
    ),
}
# fmt: on


@final
class Cityscapes(DensePrediction):
    """Streets: semantic segmentation and depth of 3,475 images, in the MTAN authors' files.

    The data is what the authors of MTAN publish at https://github.com/lorenmt/mtan: 2,975 images
    for training and 500 (``val``) for testing, 128 × 256 pixels, in
    ``{train,val}/{image,label_7,depth}/<i>.npy`` (``label`` will do as well). The depth is inverse,
    0 where nothing was measured. The papers train on the whole of ``train`` and look at ``val``
    after each epoch; here a part of ``train`` is held out for all choices, and ``val`` is the test.

    ``samo data scenes --layout cityscapes`` makes files of this layout.

    Args:
        data: The directory with ``train`` and ``val`` in it.
        classes: 7 or 19.
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
        batch_size=8,
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
        classes: int = 7,
        validation: float = 0.1,
        network: str = "segnet-mtan",
        width: int = 64,
        seed: int = 0,
    ) -> None:
        if classes not in CLASSES:
            raise ValueError(f"classes must be 7 or 19; found {classes}.")
        self.data = str(data)
        self.validation = validation
        self.seed = seed
        parts = load_parts(data, (IMAGE, SEGMENTATION, DEPTH), classes)
        super().__init__(
            split_parts(parts, validation, seed),
            (SEGMENTATION, DEPTH),
            CLASSES[classes],
            network=network,
            width=width,
        )
