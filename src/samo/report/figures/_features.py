"""Features in the plane."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...analysis import Features
from .style import MUTED, Look, entries, house_style, legend, looks, panels, plain


@house_style()
def features(found: Mapping[str, Features]) -> Figure:
    """Draws features as laid out by t-SNE, a panel per label.

    Above each panel is the separation of its clusters: the mean distance between the centroids of
    two clusters in the picture, and the silhouette coefficient of the features themselves.

    Args:
        found: Features by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none.
    """
    if not found:
        raise ValueError("found is empty: there are no features to draw.")
    clusters = sorted({label for one in found.values() for label in one.labels}, key=_order)
    styles = {name: replace(style, line="") for name, style in looks(clusters).items()}
    figure, axes = panels(1, len(found), height=3.0)
    for axis, (label, one) in zip(axes[0], found.items(), strict=True):
        _scatter(axis, one, styles)
        axis.set_title(plain(label), pad=18)
        note = f"distance {one.distance:.1f}, silhouette {one.silhouette:.2f}"
        place = {"transform": axis.transAxes, "ha": "center"}
        axis.text(0.5, 1.02, note, fontsize=8, color=MUTED, **place)
    legend(figure, entries(styles))
    return figure


def _order(label: str) -> tuple[float, str]:
    """Numbers by size, then names."""
    return (float(label), "") if label.isdecimal() else (float("inf"), label)


def _scatter(axis: Axes, one: Features, styles: Mapping[str, Look]) -> None:
    points, labels = np.array(one.points), np.array(one.labels)
    for name, style in styles.items():
        its = points[labels == name]
        dots: dict[str, Any] = {"s": 14, "edgecolors": "white", "linewidths": 0.3, "alpha": 0.9}
        axis.scatter(*its.T, color=style.colour, marker=style.marker, **dots)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color("#cccccc")
