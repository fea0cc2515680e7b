"""Cityscapes: streets, in the MTAN authors' files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, final

from .._benchmark import Defaults
from ._dense import PUBLISHED, DensePrediction, split_parts
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

    The authors of MTAN publish the data at https://github.com/lorenmt/mtan: 2,975 images for
    training and 500 (``val``) for testing, 128 × 256 pixels, in
    ``{train,val}/{image,label_7,depth}/<i>.npy`` (or ``label``). The depth is inverse, and 0 where
    nothing was measured. The papers train on all of ``train`` and evaluate ``val`` after each
    epoch; here a part of ``train`` is held out for model selection, and ``val`` is the test split.

    ``samo data scenes --layout cityscapes`` generates files of this layout.

    Args:
        data: The directory with ``train`` and ``val``.
        classes: 7 or 19.
        validation: The share of ``train`` that is held out for validation.
        network: ``"segnet-mtan"`` or ``"segnet"``.
        width: The channels of the network's first stage; 64 in the papers.
        seed: The seed of the validation split. It is not the seed of a run.

    Raises:
        DataError: If a file is missing or invalid.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = replace(PUBLISHED, batch_size=8)

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
