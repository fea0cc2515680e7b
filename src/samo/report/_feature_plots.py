"""Features in the plane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..analysis import Features
from ._plots import _legend
from .style import MUTED, Look, house_style, looks, panels, plain


def features(found: Mapping[str, Features]) -> Figure:
    """Draws features as t-SNE has laid them out, a panel a label.

    Above each panel is how far its clusters are apart: the mean distance between two clusters'
    centroids in the picture, and the silhouette coefficient of the features themselves.

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
    styles = looks(clusters)
    with house_style():
        figure, axes = panels(1, len(found), height=3.0)
        for axis, (label, one) in zip(axes[0], found.items(), strict=True):
            _scatter(axis, one, styles)
            axis.set_title(plain(label), pad=18)
            note = f"distance {one.distance:.1f}, silhouette {one.silhouette:.2f}"
            axis.text(
                0.5, 1.02, note, transform=axis.transAxes, ha="center", fontsize=8, color=MUTED
            )
        entries = [
            Line2D([], [], color=s.colour, marker=s.marker, linestyle="", label=plain(name))
            for name, s in styles.items()
        ]
        _legend(figure, entries)
    return figure


def _order(label: str) -> tuple[float, str]:
    """Numbers by size, then names."""
    return (float(label), "") if label.isdecimal() else (float("inf"), label)


def _scatter(axis: Axes, one: Features, styles: Mapping[str, Look]) -> None:
    points, labels = np.array(one.points), np.array(one.labels)
    for name, style in styles.items():
        its = points[labels == name]
        axis.scatter(
            its[:, 0],
            its[:, 1],
            s=14,
            color=style.colour,
            marker=style.marker,
            edgecolors="white",
            linewidths=0.3,
            alpha=0.9,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color("#cccccc")
