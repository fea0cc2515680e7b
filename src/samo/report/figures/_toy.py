"""The figures of the toy problems: trajectories in the plane, and in the space of the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ...toy import Problem, Trajectory
from ._paths import GROUND, LEVELS, draw_path, start_entry
from .style import entries, grid, house_style, legend, look

_FRONT, _CASING = "#F0E442", "#6e6e6e"
_PARETO: Any = {
    "color": _FRONT,
    "linewidth": 3.5,
    "solid_capstyle": "round",
    "path_effects": [withStroke(linewidth=5.5, foreground=_CASING)],
    "zorder": 2,
}


def landscape(trajectories: Sequence[Trajectory]) -> Figure:
    """Draws trajectories over the mean loss, a panel per method.

    Dark is low; the thick line is the Pareto set. Open circles are starts, the marks of the
    sharpness presets are ends.

    Args:
        trajectories: Trajectories of one problem.

    Returns:
        The figure.

    Raises:
        ValueError: If there are none, or they are of several problems.
    """
    problem = _problem(trajectories)
    low, high = problem.view.low, problem.view.high
    x1, x2 = (np.linspace(a, b, 161) for a, b in zip(low, high, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(x1, x2), -1))
    mean = problem.evaluate(grid).mean(-1).numpy()
    pareto = None if problem.pareto_set is None else problem.pareto_set(201).numpy()

    def panel(axis: Axes) -> None:
        axis.contourf(x1, x2, mean, LEVELS, cmap=GROUND)
        axis.contour(x1, x2, mean, LEVELS, colors="white", linewidths=0.5)
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$x_1$", ylabel="$x_2$")
        axis.grid(visible=False)

    tall = (high[1] - low[1]) / (high[0] - low[0])
    return _panels(trajectories, lambda t: t.points, panel, pareto, "Pareto set", tall)


def loss_space(trajectories: Sequence[Trajectory]) -> Figure:
    """Draws trajectories in the space of the two losses, a panel per method.

    The thick line is the Pareto front. Open circles are starts, the marks of the sharpness presets
    are ends.

    Args:
        trajectories: Trajectories of one problem.

    Returns:
        The figure.

    Raises:
        ValueError: If there are none, or they are of several problems.
    """
    problem = _problem(trajectories)
    front = problem.pareto_front(201)
    pareto = None if front is None else front.numpy()
    shown = [t.losses for t in trajectories] + ([] if pareto is None else [pareto])
    low, high = np.min([s.min(0) for s in shown], 0), np.max([s.max(0) for s in shown], 0)
    margin = 0.05 * np.maximum(high - low, 1e-12)
    low, high = low - margin, high + margin

    def panel(axis: Axes) -> None:
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$l_1$", ylabel="$l_2$")

    return _panels(trajectories, lambda t: t.losses, panel, pareto, "Pareto front", 0.8)


def _problem(trajectories: Sequence[Trajectory]) -> Problem:
    problems = {t.setting.problem.name: t.setting.problem for t in trajectories}
    if len(problems) != 1:
        raise ValueError(
            f"trajectories must be of one problem; found {', '.join(problems) or 'no trajectory'}."
        )
    return next(iter(problems.values()))


@house_style()
def _panels(
    trajectories: Sequence[Trajectory],
    line: Callable[[Trajectory], NDArray[Any]],
    panel: Callable[[Axes], None],
    pareto: NDArray[Any] | None,
    pareto_label: str,
    tall: float,
) -> Figure:
    """Draws a panel per method: the background by `panel`, with trajectories on top."""
    methods = list(dict.fromkeys(t.setting.method for t in trajectories))
    figure, axes = grid(len(methods), columns=3, height=2.9 * tall + 0.55)
    for axis, method in zip(axes, methods, strict=True):
        panel(axis)
        axis.set_title(method)
        if pareto is not None:
            axis.plot(*pareto.T, **_PARETO)
        for trajectory in trajectories:
            if trajectory.setting.method == method:
                draw_path(axis, line(trajectory), look(trajectory.setting.sharpness))
    legend(figure, _handles(trajectories, None if pareto is None else pareto_label))
    return figure


def _handles(trajectories: Sequence[Trajectory], pareto: str | None) -> list[Line2D]:
    labels = {t.setting.sharpness: t.setting for t in trajectories}
    styles = {
        preset if setting.rho is None else f"{preset}, ρ = {setting.rho:g}": look(preset)
        for preset, setting in labels.items()
    }
    front = [] if pareto is None else [Line2D([], [], label=pareto, **_PARETO)]
    return [*entries(styles), start_entry(), *front]
