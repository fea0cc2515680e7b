"""Trajectories on a plane."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .style import Look

# From light to half dark, so that trajectories stay legible on it, in colour and in grey.
GROUND = LinearSegmentedColormap.from_list("ground", ["#8d9aa6", "#c6ced6", "#f7f8f9"])
LEVELS = 14  # of the contours
_START: dict[str, Any] = {
    "color": "white",
    "marker": "o",
    "markeredgecolor": "black",
    "linestyle": "",
}


def draw_path(axis: Axes, points: NDArray[Any], style: Look) -> None:
    """Draws a trajectory with its start and its end."""
    axis.plot(*points.T, color=style.colour, linestyle=style.line, linewidth=1.4, zorder=3)
    axis.plot(*points[0], **_START, markersize=6, zorder=4, clip_on=False)
    end: dict[str, Any] = {
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
        "markersize": 8,
        "zorder": 5,
    }
    axis.plot(*points[-1], style.marker, color=style.colour, clip_on=False, **end)


def start_entry() -> Line2D:
    """Creates the entry of a legend for the starts."""
    return Line2D([], [], **_START, label="start")
