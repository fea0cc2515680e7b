"""The kinds of scenes, and the content of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .. import dense
from ._render import Rendered, Scene, render
from ._room import room
from ._street import street


@dataclass(frozen=True)
class SceneLayout:
    """A kind of scenes, and the layout of the corresponding data set.

    Attributes:
        build: Builds a scene.
        classes: The names of the classes.
        size: Height and width of the images of the data set.
        normals: Whether the data set has normals.
        inverse_depth: Whether its depth is 1/z instead of z; in both, 0 is no measurement.
    """

    build: Callable[[np.random.Generator, Sequence[str]], Scene]
    classes: tuple[str, ...]
    size: tuple[int, int]
    normals: bool
    inverse_depth: bool


LAYOUTS = {
    "nyuv2": SceneLayout(room, dense.NYUV2_CLASSES, (288, 384), normals=True, inverse_depth=False),
    "cityscapes": SceneLayout(
        street, dense.CITYSCAPES_CLASSES[7], (128, 256), normals=False, inverse_depth=True
    ),
}


def rendered(layout: str, seed: int, part: int, index: int, size: tuple[int, int]) -> Rendered:
    """Renders one image, which depends on the arguments alone.

    Images of different parts are independent: each split is a part.

    Returns:
        The image, and class, depth and normal of each pixel.
    """
    kind = LAYOUTS[layout]
    random = np.random.default_rng([seed, part, index])
    return render(kind.build(random, kind.classes), *size, random)


remembered = cache(rendered)
"""`rendered`, cached: consecutive runs in one process share the images."""


def arrays(layout: str, image: Rendered) -> Mapping[str, np.ndarray]:
    """Returns the content of an image's files by directory, in float32.

    Returns:
        ``image`` (H, W, 3) in [0, 1], ``label`` (H, W), ``depth`` (H, W, 1) and, if the layout has
        it, ``normal`` (H, W, 3).
    """
    kind = LAYOUTS[layout]
    depth = image.depth[..., None]
    if kind.inverse_depth:
        depth = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    found: dict[str, np.ndarray] = {
        "image": image.image.astype(np.float32) / 255,
        "label": image.label.astype(np.float32),
        "depth": depth,
    }
    return found | ({"normal": image.normal} if kind.normals else {})
