"""Predictions of dense tasks next to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from .style import MUTED, house_style

# The colours of Okabe and Ito, then paler and darker ones that differ at least in lightness: not
# everybody can distinguish nineteen colours.
# fmt: off
_CLASS_COLOURS = (
    "#0072B2", "#E69F00", "#CFE8F5", "#CC79A7", "#8A6D4B", "#D55E00", "#F0E442", "#009E73",
    "#56B4E9", "#7A1F5C", "#000000", "#D9D2C5", "#B7F0D8", "#5B3A8C", "#F5B8A0", "#3F5B2A",
    "#A3A3A3", "#FF7FA8", "#23395B",
)
# fmt: on
_VOID = (1.0, 1.0, 1.0)
_PANEL = 1.25  # inches


@dataclass(frozen=True)
class DensePictures:
    """Images, with truth and prediction of their pixels.

    Attributes:
        images: Values in [0, 1], shape ``[N, H, W, 3]``.
        truth: By task: ``"segmentation"`` labels of shape ``[N, H, W]`` (−1: void), ``"depth"`` of
            shape ``[N, H, W]`` (0: no measurement), ``"normals"`` of shape ``[N, H, W, 3]`` (unit
            vectors in the camera's frame, or zeros).
        predicted: The same, without gaps.
        class_names: The names of the classes, in the order of their labels.
        depth_unit: The unit of the depth.
    """

    images: np.ndarray
    truth: Mapping[str, np.ndarray]
    predicted: Mapping[str, np.ndarray]
    class_names: Sequence[str]
    depth_unit: str = ""


@house_style()
def predictions(pictures: DensePictures, title: str = "") -> Figure:
    """Draws a row per image: the image, then truth and prediction of each task.

    Classes have colours, listed below; small depth is dark, on one scale for truth and
    prediction of an image; normals are colours, (n + 1) / 2 as red, green and blue. Void and
    unmeasured pixels are white. The error of each prediction is below it.

    Args:
        pictures: The images.
        title: The title of the figure.

    Returns:
        The figure.
    """
    tasks = list(pictures.truth)
    n, height, width = pictures.images.shape[:3]
    columns = 1 + 2 * len(tasks)
    tall = _PANEL * height / width + 0.12
    legend = 0.5 if "segmentation" in tasks else 0.0
    figure = Figure(
        figsize=(_PANEL * columns, tall * n + legend + 0.5),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    axes: Any = figure.subplots(n, columns, squeeze=False)
    for i in range(n):
        _show(axes[i, 0], pictures.images[i], "image" if i == 0 else "")
        for k, task in enumerate(tasks):
            _pair(axes[i, 1 + 2 * k : 3 + 2 * k], pictures, task, i)
    if "segmentation" in tasks:
        _legend(figure, pictures)
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def _pair(axes: Sequence[Axes], pictures: DensePictures, task: str, i: int) -> None:
    """Draws truth and prediction of a task side by side, with the error."""
    truth, predicted = pictures.truth[task][i], pictures.predicted[task][i]
    names = (task, "predicted") if i == 0 else ("", "")
    if task == "segmentation":
        valid = truth >= 0
        shown = [_coloured(truth), _coloured(predicted)]
        note = f"{_mean(100.0 * (truth == predicted)[valid]):.0f} % right"
        options: dict[str, Any] = {}
    elif task == "depth":
        valid = truth != 0
        shown = [np.where(valid, truth, np.nan), predicted]
        error = _mean(np.abs(truth - predicted)[valid])
        note = f"off by {error:.2g} {pictures.depth_unit}".rstrip()
        low, high = (truth[valid].min(), truth[valid].max()) if valid.any() else (0, 1)
        options = {"cmap": "cividis", "vmin": low, "vmax": high}
    else:
        valid = truth.any(axis=-1)
        shown = [np.where(valid[..., None], (truth + 1) / 2, 1.0), (predicted + 1) / 2]
        cosine = (truth * predicted).sum(axis=-1)[valid].clip(-1, 1)
        note = f"off by {_mean(np.degrees(np.arccos(cosine))):.0f}°"
        options = {}
    for axis, picture, name in zip(axes, shown, names, strict=True):
        _show(axis, picture, name, **options)
    axes[1].set_xlabel(note, fontsize=7, labelpad=1.5, color=MUTED)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _show(axis: Axes, picture: np.ndarray, title: str, **options: Any) -> None:
    axis.imshow(picture.clip(0, 1) if picture.ndim == 3 else picture, **options)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_title(title, fontsize=8, pad=3)


def _coloured(labels: np.ndarray) -> np.ndarray:
    table = np.array([*(to_rgb(colour) for colour in _CLASS_COLOURS), _VOID])
    found: np.ndarray = table[labels]  # −1 is the last
    return found


def _legend(figure: Figure, pictures: DensePictures) -> None:
    """Adds the classes that occur."""
    both = (pictures.truth["segmentation"], pictures.predicted["segmentation"])
    found = sorted({int(label) for labels in both for label in np.unique(labels) if label >= 0})
    patches = [
        Patch(facecolor=_CLASS_COLOURS[k], edgecolor=MUTED, linewidth=0.4, label=name)
        for k, name in enumerate(pictures.class_names)
        if k in found
    ]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(len(patches), 8),
        fontsize=7,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
    )
