"""What the steps of trainings saw, over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..analysis import History
from ._plots import _legend
from .style import Look, house_style, looks, panels, plain

Histories = Mapping[str, History | Sequence[History]]
"""By label a history, or those of several seeds."""

_LINES = 8  # that can be told apart in one panel
_MARKS = 6  # on a line


def conflicts(histories: Histories) -> Figure:
    """Draws the share of task pairs whose gradients have a negative inner product, over training.

    Where there are several seeds, the line is their mean, and the band reaches from the lowest to
    the highest.

    Args:
        histories: What `samo.analysis.history` has read, by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none knows of conflicts (a method that makes no Gramian), or
            steps and epochs are mixed.
    """
    unit, seeds = _checked(histories)
    found = {
        label: _table([h.at for h in of], [h.values.get("conflicts", ()) for h in of])
        for label, of in seeds.items()
    }
    _some(found, "conflicts")
    styles = looks(seeds)
    with house_style():
        figure, axes = panels(1, 1, height=2.8)
        figure.set_figwidth(1.5 * figure.get_figwidth())
        for label, (at, values) in found.items():
            _line(axes[0, 0], at, 100 * values, styles[label])
        axes[0, 0].set_ylabel("task pairs in conflict (%)")
        axes[0, 0].set_ylim(-2, 102)
        _finish(figure, axes, unit, {label: styles[label] for label in found})
    return figure


def gradient_norms(histories: Histories) -> Figure:
    """Draws the norms of the task gradients over training: how well they are balanced.

    A panel a label, a line a task; of more than eight tasks the median, with bands from quartile to
    quartile and from the lowest to the highest.

    Args:
        histories: What `samo.analysis.history` has read, by label; of several seeds the mean is
            drawn.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none knows of gradient norms (a method that makes no Gramian),
            or steps and epochs are mixed.
    """
    return _by_task(histories, "gradient_norm", "norm of the task gradient", scale="log")


def task_weights(histories: Histories) -> Figure:
    """Draws the tasks' weights over training.

    A panel a label, a line a task; of more than eight tasks the median, with bands from quartile to
    quartile and from the lowest to the highest.

    Args:
        histories: What `samo.analysis.history` has read, by label; of several seeds the mean is
            drawn.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none knows of weights, or steps and epochs are mixed.
    """
    return _by_task(histories, "weight", "weight of the task", scale="linear")


def _by_task(histories: Histories, name: str, label: str, scale: str) -> Figure:
    unit, seeds = _checked(histories)
    found: dict[str, dict[str, _Table]] = {}
    for key, of in seeds.items():
        by_seed = [h.by_task(name) for h in of]
        names = dict.fromkeys(task for tasks in by_seed for task in tasks)
        found[key] = {t: _table([h.at for h in of], [b.get(t, ()) for b in by_seed]) for t in names}
    found = {key: {t: v for t, v in tasks.items() if _any(v)} for key, tasks in found.items()}
    found = {key: tasks for key, tasks in found.items() if tasks}
    _some(found, name)
    drawn = dict.fromkeys(task for tasks in found.values() for task in tasks)
    styles = looks(drawn)
    with house_style():
        figure, axes = panels(1, len(found), height=2.6, sharey=True)
        for axis, (key, tasks) in zip(axes[0], found.items(), strict=True):
            axis.set_yscale(scale)
            many = len(tasks) > _LINES
            axis.set_title(plain(key) + (f" ({len(tasks)} tasks)" if many else ""))
            if many:
                _bands(axis, list(tasks.values()))
            else:
                for task, (at, values) in tasks.items():
                    _line(axis, at, _mean(values)[None], styles[task])
        axes[0, 0].set_ylabel(label)
        few = max(map(len, found.values())) <= _LINES
        _finish(figure, axes, unit, styles if few else {})
        if not few:
            _legend(figure, _SPREAD)
    return figure


_BAND = "#0072B2"
_SPREAD = [
    Line2D([], [], color=_BAND, label="median of the tasks"),
    Line2D([], [], color=_BAND, alpha=0.41, linewidth=7, label="middle half"),
    Line2D([], [], color=_BAND, alpha=0.15, linewidth=7, label="all"),
]
_Table = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps or epochs, and the values there, a row a seed; NaN where there is none."""


def _checked(histories: Histories) -> tuple[str, dict[str, list[History]]]:
    seeds = {k: [h] if isinstance(h, History) else list(h) for k, h in histories.items()}
    units = {h.unit for of in seeds.values() for h in of}
    if len(units) != 1:
        raise ValueError(
            f"histories must be one or more, all by step or all by epoch; found "
            f"{' and '.join(sorted(units)) or 'none'}."
        )
    return units.pop(), seeds


def _table(at: Sequence[Sequence[int]], values: Sequence[Sequence[float]]) -> _Table:
    """Lines up the seeds, which may have come to different steps."""
    places = sorted({step for steps in at for step in steps})
    table = np.full((len(at), len(places)), np.nan)
    for row, steps, its in zip(table, at, values, strict=True):
        by_step = dict(zip(steps, its, strict=False))
        row[:] = [by_step.get(place, np.nan) for place in places]
    return np.array(places, dtype=np.float64), table


def _any(table: _Table) -> bool:
    return bool(np.isfinite(table[1]).any())


def _some(found: Mapping[str, object], name: str) -> None:
    tables = [t for t in found.values() if not isinstance(t, tuple) or _any(t)]
    if not tables:
        raise ValueError(f"none of the histories has {name}: there is nothing to draw.")


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the seeds that have a value."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    n = known.sum(0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _line(axis: Axes, at: NDArray[np.float64], values: NDArray[np.float64], style: Look) -> None:
    if not np.isfinite(values).any():
        return
    axis.plot(
        at,
        _mean(values),
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markevery=max(len(at) // _MARKS, 1),
        linewidth=1.4,
    )
    if len(values) > 1:
        known = np.isfinite(values).any(0)
        low, high = np.nanmin(values[:, known], 0), np.nanmax(values[:, known], 0)
        axis.fill_between(at[known], low, high, color=style.colour, alpha=0.12, linewidth=0)


def _bands(axis: Axes, tasks: Sequence[_Table]) -> None:
    at = tasks[0][0]
    rows = np.stack([_mean(values) for _, values in tasks])
    known = np.isfinite(rows).any(0)
    low, first, middle, third, high = np.nanpercentile(rows[:, known], [0, 25, 50, 75, 100], axis=0)
    axis.fill_between(at[known], low, high, color=_BAND, alpha=0.15, linewidth=0)
    axis.fill_between(at[known], first, third, color=_BAND, alpha=0.3, linewidth=0)
    axis.plot(at[known], middle, color=_BAND)


def _finish(figure: Figure, axes: NDArray[Any], unit: str, styles: Mapping[str, Look]) -> None:
    axis: Axes
    for axis in axes.flat:
        axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _legend(figure, handles(styles))


def handles(styles: Mapping[str, Look]) -> list[Line2D]:
    """Makes the entries of a legend.

    Args:
        styles: The looks by name.

    Returns:
        An entry for each.
    """
    return [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.line, label=plain(name))
        for name, s in styles.items()
    ]
