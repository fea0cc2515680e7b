"""Losses on planes, with trajectories on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ...analysis import Landscape, Trajectory
from ._paths import GROUND, LEVELS, draw_path, start_entry
from .style import MUTED, entries, house_style, legend, looks, panels, plain, remark

_TASKS = 5  # panels besides that of the mean


@house_style()
def loss_planes(
    landscapes: Mapping[str, Landscape],
    trajectories: Mapping[str, Trajectory] | None = None,
    tasks: Sequence[str] | None = None,
) -> Figure:
    """Draws contours of the mean loss and of each task's loss, a row per landscape.

    Dark is low. The levels are denser towards the minimum, and are the same in a column, so that
    rows can be compared. Crosses are the points that define the plane; trajectories begin at open
    circles. Areas without a finite loss are white.

    Args:
        landscapes: Landscapes by label.
        trajectories: Trajectories on the plane of the landscapes, by label.
        tasks: The tasks whose losses are drawn besides the mean; the first five by default.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, they are not of the same tasks, a task is unknown, or a
            trajectory is on another plane.
    """
    trajectories = trajectories or {}
    known = _tasks(landscapes)
    if unknown := [task for task in tasks or [] if task not in known]:
        raise ValueError(f"tasks must be of {known}; found {unknown}.")
    for label, way in trajectories.items():
        for key, ground in landscapes.items():
            if way.plane != ground.plane:
                raise ValueError(
                    f"trajectory {label!r} is on another plane ({way.plane}) than landscape "
                    f"{key!r} ({ground.plane})."
                )
    ways = {name: np.array(way.points) for name, way in trajectories.items()}
    columns = [None, *(known[:_TASKS] if tasks is None else tasks)]
    styles = looks(trajectories)
    figure, axes = panels(len(landscapes), len(columns), height=2.7)
    figure.set_figwidth(0.9 * figure.get_figwidth())
    for j, task in enumerate(columns):
        levels = _levels([ground.grid(task) for ground in landscapes.values()])
        for i, (label, ground) in enumerate(landscapes.items()):
            axis = axes[i, j]
            drawn = _contours(axis, ground, ground.grid(task), levels)
            bar = figure.colorbar(drawn, ax=axis, ticks=levels[::4], format="%.3g", pad=0.02)
            bar.ax.tick_params(labelsize=7)
            axis.set_title("mean loss" if task is None else plain(task))
            for name, points in ways.items():
                draw_path(axis, points, styles[name])
            if j == 0 and len(landscapes) > 1:
                axis.set_ylabel(plain(label), fontweight="bold")
    planes = dict.fromkeys(ground.plane for ground in landscapes.values())
    figure.suptitle(plain("; ".join(planes)), fontsize=8, color=MUTED)
    if styles:
        legend(figure, [*entries(styles), start_entry()])
    return figure


def _tasks(landscapes: Mapping[str, Landscape]) -> list[str]:
    sets = {tuple(ground.losses) for ground in landscapes.values()}
    if len(sets) != 1:
        raise ValueError(
            f"landscapes must be one or more of the same tasks; found "
            f"{' and '.join(str(list(s)) for s in sorted(sets)) or 'none'}."
        )
    return list(sets.pop())


def _levels(grids: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    values = np.concatenate([grid.ravel() for grid in grids])
    values = values[np.isfinite(values)]
    if not values.size:
        raise ValueError("a landscape has no finite loss: there is nothing to draw.")
    low, high = float(values.min()), float(values.max())
    high = max(high, low + 1e-9 * max(abs(low), 1.0))  # where all are equal
    levels: NDArray[np.float64] = low + (high - low) * np.linspace(0, 1, LEVELS) ** 2
    return levels


def _contours(
    axis: Axes, ground: Landscape, grid: NDArray[np.float64], levels: NDArray[np.float64]
) -> QuadContourSet:
    masked = np.ma.masked_invalid(grid)
    norm = BoundaryNorm(levels, GROUND.N)
    drawn = axis.contourf(ground.x, ground.y, masked, levels, cmap=GROUND, norm=norm)
    axis.contour(ground.x, ground.y, masked, levels, colors="white", linewidths=0.5)
    axis.grid(visible=False)
    axis.set_xlim(ground.x[0], ground.x[-1])
    axis.set_ylim(ground.y[0], ground.y[-1])
    for name, point in ground.points.items():
        axis.plot(*point, "x", color="black", markersize=6, markeredgewidth=1.5, zorder=6)
        halo = [withStroke(linewidth=2, foreground="white")]
        remark(axis, plain(name), point, (4, 4), color="black", path_effects=halo, zorder=7)
    return drawn
