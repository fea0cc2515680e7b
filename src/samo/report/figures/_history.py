"""The course of training by step or epoch, from logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ...analysis import History
from .style import (
    count_epochs,
    curve,
    entries,
    finite_mean,
    house_style,
    legend,
    looks,
    panels,
    plain,
)

Histories = Mapping[str, History | Sequence[History]]
"""A history, or the histories of several seeds, by label."""

_LINES = 8  # the most that are distinguishable in one panel


@house_style()
def conflicts(histories: Histories) -> Figure:
    """Draws the share of task pairs whose gradients have a negative inner product, over training.

    With several seeds, the line is their mean, and the band reaches from the lowest to the highest.

    Args:
        histories: The results of `samo.analysis.history`, by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none has conflicts (a method that computes no Gramian), or
            steps and epochs are mixed.
    """
    unit, seeds = _checked(histories)
    found = {
        label: _table([h.at for h in of], [h.values.get("conflicts", ()) for h in of])
        for label, of in seeds.items()
    }
    _require(map(_any, found.values()), "conflicts")
    styles = looks(seeds)
    figure, axes = panels(1, 1, height=2.8)
    figure.set_figwidth(1.5 * figure.get_figwidth())
    for label, (at, values) in found.items():
        curve(axes[0, 0], at, 100 * values, styles[label], linewidth=1.4)
    axes[0, 0].set_ylabel("task pairs in conflict (%)")
    axes[0, 0].set_ylim(-2, 102)
    _finish(figure, axes, unit, entries(styles))
    return figure


def gradient_norms(histories: Histories) -> Figure:
    """Draws the norms of the task gradients over training: how well they are balanced.

    There is a panel per label and a line per task; of more than eight tasks the median, with bands
    between the quartiles and from the lowest to the highest.

    Args:
        histories: The results of `samo.analysis.history`, by label; of several seeds the mean is
            drawn.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none has gradient norms (a method that computes no Gramian),
            or steps and epochs are mixed.
    """
    return _by_task(histories, "gradient_norm", "norm of the task gradient", scale="log")


def task_weights(histories: Histories) -> Figure:
    """Draws the weights of the tasks over training.

    There is a panel per label and a line per task; of more than eight tasks the median, with bands
    between the quartiles and from the lowest to the highest.

    Args:
        histories: The results of `samo.analysis.history`, by label; of several seeds the mean is
            drawn.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none, none has weights, or steps and epochs are mixed.
    """
    return _by_task(histories, "weight", "weight of the task", scale="linear")


@house_style()
def _by_task(histories: Histories, name: str, label: str, scale: str) -> Figure:
    unit, seeds = _checked(histories)
    found: dict[str, dict[str, _Table]] = {}
    for key, of in seeds.items():
        by_seed = [h.by_task(name) for h in of]
        names = dict.fromkeys(task for tasks in by_seed for task in tasks)
        tables = {t: _table([h.at for h in of], [b.get(t, ()) for b in by_seed]) for t in names}
        if shown := {task: table for task, table in tables.items() if _any(table)}:
            found[key] = shown
    _require(found, name)
    styles = looks(task for tasks in found.values() for task in tasks)
    figure, axes = panels(1, len(found), height=2.6, sharey=True)
    for axis, (key, tasks) in zip(axes[0], found.items(), strict=True):
        axis.set_yscale(scale)
        many = len(tasks) > _LINES
        axis.set_title(plain(key) + (f" ({len(tasks)} tasks)" if many else ""))
        if many:
            _bands(axis, list(tasks.values()))
        else:
            for task, (at, values) in tasks.items():
                curve(axis, at, values, styles[task], band=False, linewidth=1.4)
    axes[0, 0].set_ylabel(label)
    few = max(map(len, found.values())) <= _LINES
    _finish(figure, axes, unit, entries(styles) if few else _SPREAD)
    return figure


_BAND = "#0072B2"
_SPREAD = [
    Line2D([], [], color=_BAND, label="median of the tasks"),
    Line2D([], [], color=_BAND, alpha=0.41, linewidth=7, label="middle half"),
    Line2D([], [], color=_BAND, alpha=0.15, linewidth=7, label="all"),
]
_Table = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps or epochs, and the values at them, a row per seed; NaN for missing values."""


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
    """Aligns the seeds, which may have reached different steps."""
    places = sorted({step for steps in at for step in steps})
    table = np.full((len(at), len(places)), np.nan)
    for row, steps, its in zip(table, at, values, strict=True):
        by_step = dict(zip(steps, its, strict=False))
        row[:] = [by_step.get(place, np.nan) for place in places]
    return np.array(places, dtype=np.float64), table


def _any(table: _Table) -> bool:
    return bool(np.isfinite(table[1]).any())


def _require(found: Iterable[object], name: str) -> None:
    if not any(found):
        raise ValueError(f"none of the histories has {name}: there is nothing to draw.")


def _bands(axis: Axes, tasks: Sequence[_Table]) -> None:
    at = tasks[0][0]
    rows = np.stack([finite_mean(values) for _, values in tasks])
    known = np.isfinite(rows).any(0)
    low, first, middle, third, high = np.nanpercentile(rows[:, known], [0, 25, 50, 75, 100], axis=0)
    axis.fill_between(at[known], low, high, color=_BAND, alpha=0.15, linewidth=0)
    axis.fill_between(at[known], first, third, color=_BAND, alpha=0.3, linewidth=0)
    axis.plot(at[known], middle, color=_BAND)


def _finish(figure: Figure, axes: Any, unit: str, handles: Sequence[Line2D]) -> None:
    for axis in axes.flat:
        count_epochs(axis, unit, ticks=6)
    legend(figure, handles)
