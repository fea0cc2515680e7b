"""Small image files for tests, in the layouts of CelebA and Office-Home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The header of the published file.
_HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
ATTRIBUTES = _HEADER.split()
DOMAINS = ("Art", "Clipart", "Product", "Real World")


def draw(path: Path, size: tuple[int, int], random: np.random.Generator) -> None:
    """Writes a picture of coarse colours, which survive compression."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.NEAREST).save(path, quality=95)


def resized(path: Path, side: int) -> NDArray[np.uint8]:
    """Returns the expected pixels of a picture: ``[3, side, side]``."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.moveaxis(np.array(small), 2, 0)


def celeba(
    root: Path, sizes: Sequence[int] = (9, 4, 5), attributes: Sequence[str] = ATTRIBUTES
) -> NDArray[np.int64]:
    """Writes CelebA with mixed splits, and returns its labels, 1 or -1."""
    random = np.random.default_rng(0)
    splits = random.permutation(np.repeat([0, 1, 2], sizes))
    labels = random.choice([-1, 1], (len(splits), len(attributes)))
    names = [f"{i + 1:06d}.jpg" for i in range(len(splits))]
    for name in names:
        draw(root / "Img/img_align_celeba" / name, (178, 218), random)
    # The published file pads the labels to two columns.
    lines = [
        f"{name} {' '.join(f'{label:2d}' for label in row)}"
        for name, row in zip(names, labels.tolist(), strict=True)
    ]
    write(root / "Anno/list_attr_celeba.txt", [str(len(names)), " ".join(attributes) + " ", *lines])
    write(
        root / "Eval/list_eval_partition.txt",
        [f"{name} {split}" for name, split in zip(names, splits, strict=True)],
    )
    return labels


def office_home(root: Path, classes: Sequence[str] = ("Bed", "Alarm_Clock"), each: int = 5) -> None:
    """Writes Office-Home; the last class of each domain has images of its own number."""
    random = np.random.default_rng(1)
    for extra, domain in enumerate(DOMAINS):
        for name in classes:
            for i in range(each + (extra if name == classes[-1] else 0)):
                size = (int(random.integers(40, 90)), int(random.integers(40, 90)))
                draw(root / domain / name / f"{i + 1:05d}.jpg", size, random)


def write(path: Path, lines: Sequence[str]) -> None:
    """Writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
