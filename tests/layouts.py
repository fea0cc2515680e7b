"""Small data in the layout of the MTAN authors' files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZE = (32, 64)


def write_mtan(
    root: Path,
    *,
    train: int = 6,
    val: int = 2,
    size: tuple[int, int] = SIZE,
    classes: int = 13,
    normals: bool = True,
    label: str = "label",
    dtype: type = np.float64,
    seed: int = 0,
) -> Path:
    """Writes random images with gaps in all targets, as the published files have them."""
    random = np.random.default_rng(seed)
    for part, n in (("train", train), ("val", val)):
        names = ["image", label, "depth"] + ["normal"] * normals
        for name in names:
            (root / part / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            normal = random.standard_normal((*size, 3))
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            files = {
                "image": random.random((*size, 3)),
                label: random.integers(-1, classes, size).astype(np.float64),
                "depth": random.uniform(0.5, 8, (*size, 1)) * (random.random((*size, 1)) > 0.2),
                "normal": normal * (random.random((*size, 1)) > 0.2),
            }
            for name in names:
                np.save(root / part / name / f"{i}.npy", files[name].astype(dtype))
    return root
