"""The figures of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...records.schema import reported
from ..summary import Column, Row, Score, Spread, Summary, first_metrics
from .style import (
    MUTED,
    count_epochs,
    curve,
    entries,
    house_style,
    legend,
    look,
    marks,
    panels,
    remark,
)

_PANELS = 6  # side by side


def preset_entries(summary: Summary) -> list[Line2D]:
    """Creates the entries of a legend, one per preset."""
    return entries({name: look(name) for name in summary.presets})


@house_style()
def learning_curves(summary: Summary) -> Figure:
    """Draws each task's first metric by epoch, on training and validation data.

    There is a panel per method and task; with many tasks, a panel per kind of metric with the mean
    over its tasks. Lines are means over the seeds, bands reach from the lowest seed to the highest.
    Test data is not used: it is evaluated once, at the end.

    Args:
        summary: The comparison.

    Returns:
        The figure.
    """
    methods = summary.methods
    groups = _groups(first_metrics(summary.columns))
    figure, axes = panels(len(methods), len(groups), sharex=True, sharey="col", height=2.3)
    for i, method in enumerate(methods):
        for j, group in enumerate(groups):
            axis = axes[i, j]
            for row in summary.arms(method):
                for split in ("train", "validation"):
                    _learning_curve(axis, row, group, split)
            alone = len(group) == 1
            axis.set_title(f"{method}: {group[0].task if alone else f'{len(group)} tasks'}")
            if j == 0 or group[0].label != groups[0][0].label:
                axis.set_ylabel(group[0].label)
    _zoom(axes)
    for axis in axes[-1]:
        count_epochs(axis)
    handles = [
        *preset_entries(summary),
        Line2D([], [], color=MUTED, linewidth=0.8, label="training (thin)"),
        Line2D([], [], color=MUTED, linewidth=1.8, label="validation (bold)"),
    ]
    legend(figure, handles)
    return figure


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """Groups metrics by panel: each has its own, unless there are too many."""
    if len(columns) <= _PANELS:
        return [[column] for column in columns]
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.label, []).append(column)
    return list(groups.values())


def _learning_curve(axis: Axes, row: Row, group: Sequence[Column], split: str) -> None:
    values = [
        [
            np.mean([record[split][column.task][column.metric] for column in group])
            for record in run["history"]
        ]
        for run in row.runs
    ]
    epochs = np.arange(1, len(values[0]) + 1)
    axis.set_xlim(1, max(len(epochs), 2))
    if split == "validation":
        curve(axis, epochs, values, look(row.preset), linewidth=1.8)
    else:
        thin = {"linewidth": 0.8, "alpha": 0.8, "marker": None}
        curve(axis, epochs, values, look(row.preset), band=False, **thin)


def _zoom(axes: Any) -> None:
    """Shows the range of the second half of the epochs, without the steep start."""
    for j in range(axes.shape[1]):
        lines = [line for axis in axes[:, j] for line in axis.get_lines()]
        data = [np.asarray(line.get_ydata(), dtype=float) for line in lines]
        if not data:
            continue
        late = np.concatenate([y[len(y) // 2 :] for y in data])
        margin = 0.06 * float(np.ptp(late)) or 1.0
        axes[0, j].set_ylim(late.min() - margin, late.max() + margin)


@house_style()
def delta_m(summary: Summary) -> Figure:
    """Draws Δm and the average of the tasks by method, a mark per preset.

    Marks are means over the seeds, bars one standard deviation, small dots the single seeds.

    Args:
        summary: The comparison.

    Returns:
        The figure.
    """
    scores = summary.scores(summary.rows)[::-1]
    against = "published single-task numbers" if summary.baseline else "single-task training"
    figure, axes = panels(1, max(len(scores), 1), height=3.0)
    for axis, score in zip(axes[0], scores, strict=False):
        stl = [spread.mean for row in summary.rows if row.baseline and (spread := score.of(row))]
        if score.name == "delta_m":
            axis.set_ylabel(f"Δm against {against} (%)")
            stl = [0.0]
        else:
            axis.set_ylabel(score.label.replace("average", "average test", 1))
        _dots(axis, summary, score)
        for level in stl[:1]:
            axis.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            place = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            remark(axis, "STL", (1, level), (-2, 2), **place)
        better = "higher is better" if score.higher_is_better else "lower is better"
        axis.set_title(better, loc="right", fontsize=8, fontweight="normal", color=MUTED)
    legend(figure, preset_entries(summary))
    return figure


def _dots(axis: Axes, summary: Summary, score: Score) -> None:
    methods, presets = summary.methods, summary.presets
    width = 0.8 / len(presets)
    for i, method in enumerate(methods):
        for row in summary.arms(method):
            if (spread := score.of(row)) is not None:
                style = look(row.preset)
                x = i + width * (presets.index(row.preset) - (len(presets) - 1) / 2)
                seeds = [x + 0.22 * width] * len(spread.values)
                axis.plot(seeds, spread.values, ".", color=style.colour, alpha=0.45, markersize=4)
                bar = {"yerr": spread.std or 0.0, "elinewidth": 1.1, "markersize": 6.5}
                marks(axis, x, spread.mean, style, **bar)
        if i:
            axis.axvline(i - 0.5, color="#cccccc", linewidth=0.8)
    axis.set_xticks(range(len(methods)), methods)
    axis.set_xlim(-0.5, len(methods) - 0.5)
    axis.grid(visible=False, axis="x")


@house_style()
def rho_grid(summary: Summary) -> Figure:
    """Draws the validation score by ρ, to show its influence and whether the grid has the best."""
    methods = summary.methods
    lowest = min(rho for by_rho in summary.grid.values() for rho in by_rho)
    figure, axes = panels(1, len(methods), sharey=True, height=2.8)
    for axis, method in zip(axes[0], methods, strict=True):
        axis.set_xscale("log" if lowest > 0 else "linear")
        for row in summary.arms(method):
            _scores(axis, summary, row)
        axis.set_title(method)
        axis.set_xlabel("ρ")
    axes[0, 0].set_ylabel("validation score")
    legend(figure, preset_entries(summary))
    return figure


def _scores(axis: Axes, summary: Summary, row: Row) -> None:
    style, presets = look(row.preset), summary.presets
    by_rho = summary.grid.get((row.method, row.preset))
    if by_rho is None:
        scores = Spread(tuple(reported(run)["score"] for run in row.runs))
        axis.axhline(scores.mean, linewidth=1.2, clip_on=False, **style.pen)
        return
    rhos = sorted(by_rho)
    # Shifted a little, so that the bars of the presets do not hide each other.
    shift = 1.025 ** (presets.index(row.preset) - (len(presets) - 1) / 2)
    x, y = [rho * shift for rho in rhos], [by_rho[rho].mean for rho in rhos]
    bars = [by_rho[rho].std or 0.0 for rho in rhos]
    marks(axis, x, y, style, yerr=bars, linestyle=style.line)
    axis.set_xticks(rhos, [f"{rho:g}" for rho in rhos])
    axis.set_xticks([], minor=True)


@house_style()
def intervals(summary: Summary) -> Figure | None:
    """Draws the differences to plain training with 95 % confidence intervals; None without any."""
    scores = summary.scores(summary.differences)
    if not scores:
        return None
    counts = Counter(d.preset for d in summary.differences)
    starts = np.cumsum([0, *(count + 1 for count in counts.values())])
    figure, axes = panels(1, len(scores), sharey=True, height=0.5 + 0.14 * starts[-1])
    for axis, score in zip(axes[0], scores, strict=True):
        _forest(axis, summary, score)
        axis.set_title(score.label)
        axis.set_xlabel("better →" if score.higher_is_better else "← better")
    axes[0, 0].set_yticks((starts[:-1] + starts[1:] - 2) / 2, list(counts))
    axes[0, 0].invert_yaxis()
    return figure


def _forest(axis: Axes, summary: Summary, score: Score) -> None:
    axis.axvline(0, color=MUTED, linewidth=0.9)
    presets = list(dict.fromkeys(d.preset for d in summary.differences))
    for i, d in enumerate(summary.differences):
        if (spread := score.of(d)) is None:
            continue
        y, half = i + presets.index(d.preset), spread.interval or 0.0
        large = len(d.methods) > 1
        size = {"markersize": 8, "elinewidth": 2.0, "capsize": 3}
        small = {"markersize": 4, "elinewidth": 0.9, "capsize": 2}
        marks(axis, spread.mean, y, look(d.preset), xerr=half, **(size if large else small))
        if not large:
            remark(axis, d.methods[0], (spread.mean + half, y), (4, 0), fontsize=7, va="center")
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.18)
