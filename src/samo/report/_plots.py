"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..records.schema import reported
from ._rows import Column, Row, Spread, Summary, first_metrics
from .style import MUTED, house_style, look, panels

_PANELS = 6  # side by side


def learning_curves(summary: Summary) -> Figure:
    """Draws each task's first metric by epoch, on training and validation data.

    A panel a method and task; of many tasks, a panel for each kind of metric, with the mean over
    its tasks. The lines are means over the seeds, the bands reach from the lowest seed to the
    highest. The test data plays no part: it is looked at once, at the end.

    Args:
        summary: The comparison.

    Returns:
        The figure.
    """
    methods = _methods(summary)
    groups = _groups(first_metrics(summary.columns))
    with house_style():
        figure, axes = panels(len(methods), len(groups), sharex=True, sharey="col", height=2.3)
        for i, method in enumerate(methods):
            for j, group in enumerate(groups):
                axis = axes[i, j]
                for row in _arms(summary, method):
                    _curve(axis, row, group, "train")
                    _curve(axis, row, group, "validation")
                alone = len(group) == 1
                axis.set_title(f"{method}: {group[0].task if alone else f'{len(group)} tasks'}")
                if j == 0 or group[0].label != groups[0][0].label:
                    axis.set_ylabel(group[0].label)
        _zoom(axes)
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [
            *_handles(summary),
            Line2D([], [], color=MUTED, linewidth=0.8, label="training (thin)"),
            Line2D([], [], color=MUTED, linewidth=1.8, label="validation (bold)"),
        ]
        _legend(figure, handles)
    return figure


def _groups(columns: Sequence[Column]) -> list[list[Column]]:
    """The metrics that share a panel: each has its own, unless there are too many to look at."""
    if len(columns) <= _PANELS:
        return [[column] for column in columns]
    groups: dict[str, list[Column]] = {}
    for column in columns:
        groups.setdefault(column.label, []).append(column)
    return list(groups.values())


def _curve(axis: Axes, row: Row, group: Sequence[Column], split: str) -> None:
    values = np.array(
        [
            [
                np.mean([record[split][column.task][column.metric] for column in group])
                for record in run["history"]
            ]
            for run in row.runs
        ]
    )
    epochs = np.arange(1, values.shape[1] + 1)
    style = look(row.sharpness)
    bold = split == "validation"
    axis.set_xlim(1, max(len(epochs), 2))
    axis.plot(
        epochs,
        values.mean(0),
        color=style.colour,
        linestyle=style.line,
        linewidth=1.8 if bold else 0.8,
        alpha=1.0 if bold else 0.8,
        marker=style.marker if bold else None,
        markevery=(max(len(epochs) // 5, 1) - 1, max(len(epochs) // 5, 1)),
    )
    if bold and len(values) > 1:
        axis.fill_between(
            epochs, values.min(0), values.max(0), color=style.colour, alpha=0.12, linewidth=0
        )


def _zoom(axes: Any) -> None:
    """Shows what the second half of the epochs spans: the steep beginning would flatten it."""
    for j in range(axes.shape[1]):
        lines = [line for axis in axes[:, j] for line in axis.get_lines()]
        data = [np.asarray(line.get_ydata(), dtype=float) for line in lines]
        if not data:
            continue
        late = np.concatenate([y[len(y) // 2 :] for y in data])
        margin = 0.06 * float(np.ptp(late)) or 1.0
        axes[0, j].set_ylim(late.min() - margin, late.max() + margin)


@dataclass(frozen=True)
class _Panel:
    """A figure of the rows, and the level of single-task training."""

    label: str
    value: Callable[[Row], Spread | None]
    higher_is_better: bool
    level: float | None


def _panels(summary: Summary) -> list[_Panel]:
    found = []
    if any(row.delta_m for row in summary.rows):
        against = "published single-task numbers" if summary.baseline else "single-task training"
        label = f"Δm against {against} (%)"
        found.append(_Panel(label, lambda row: row.delta_m, higher_is_better=False, level=0.0))
    if any(row.average for row in summary.rows):
        column = summary.columns[0]
        stl = [row.average.mean for row in summary.rows if row.method == "stl" and row.average]
        found.append(
            _Panel(
                f"average test {column.label}",
                lambda row: row.average,
                column.higher_is_better,
                stl[0] if stl else None,
            )
        )
    return found


def delta_m(summary: Summary) -> Figure:
    """Draws Δm and the average of the tasks by method, a mark a preset.

    Marks are means over the seeds, bars one standard deviation, small dots the single seeds.

    Args:
        summary: The comparison.

    Returns:
        The figure.
    """
    found = _panels(summary)
    with house_style():
        figure, axes = panels(1, max(len(found), 1), height=3.0)
        for axis, panel in zip(axes[0], found, strict=False):
            _dots(axis, summary, panel)
            axis.set_ylabel(panel.label)
            axis.set_title(
                "higher is better" if panel.higher_is_better else "lower is better",
                loc="right",
                fontsize=8,
                fontweight="normal",
                color=MUTED,
            )
        _legend(figure, _handles(summary))
    return figure


def _dots(axis: Axes, summary: Summary, panel: _Panel) -> None:
    methods, presets = _methods(summary), _presets(summary)
    width = 0.8 / len(presets)
    for i, method in enumerate(methods):
        for row in _arms(summary, method):
            if (spread := panel.value(row)) is not None:
                offset = presets.index(row.sharpness) - (len(presets) - 1) / 2
                _mark(axis, i + width * offset, width, spread, row.sharpness)
        if i:
            axis.axvline(i - 0.5, color="#cccccc", linewidth=0.8)
    if panel.level is not None:
        axis.axhline(panel.level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axis.annotate(
            "STL",
            (1, panel.level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=MUTED,
        )
    axis.set_xticks(range(len(methods)), methods)
    axis.set_xlim(-0.5, len(methods) - 0.5)
    axis.grid(visible=False, axis="x")


def _mark(axis: Axes, x: float, width: float, spread: Spread, preset: str) -> None:
    """Draws a mean with its standard deviation, and the single seeds beside it."""
    style = look(preset)
    beside = [x + 0.22 * width] * len(spread.values)
    axis.plot(beside, spread.values, ".", color=style.colour, alpha=0.45, markersize=4)
    axis.errorbar(
        x,
        spread.mean,
        yerr=spread.std or 0.0,
        fmt=style.marker,
        color=style.colour,
        capsize=2.5,
        elinewidth=1.1,
        markersize=6.5,
    )


def rho_grid(summary: Summary) -> Figure:
    """Draws the validation score by ρ: whether the grid holds the best, how much it matters.

    Args:
        summary: The comparison.

    Returns:
        The figure.
    """
    methods = _methods(summary)
    lowest = min(rho for by_rho in summary.grid.values() for rho in by_rho)
    with house_style():
        figure, axes = panels(1, len(methods), sharey=True, height=2.8)
        for axis, method in zip(axes[0], methods, strict=True):
            axis.set_xscale("log" if lowest > 0 else "linear")
            for row in _arms(summary, method):
                _scores(axis, summary, row)
            axis.set_title(method)
            axis.set_xlabel("ρ")
        axes[0, 0].set_ylabel("validation score")
        _legend(figure, _handles(summary))
    return figure


def _scores(axis: Axes, summary: Summary, row: Row) -> None:
    style = look(row.sharpness)
    by_rho = summary.grid.get((row.method, row.sharpness))
    if by_rho is None:
        scores = Spread(tuple(reported(run)["score"] for run in row.runs))
        axis.axhline(scores.mean, color=style.colour, linestyle=style.line, linewidth=1.2)
        return
    rhos = sorted(by_rho)
    presets = _presets(summary)
    # A little aside, or the bars of the presets would hide one another.
    aside = 1.025 ** (presets.index(row.sharpness) - (len(presets) - 1) / 2)
    axis.errorbar(
        [rho * aside for rho in rhos],
        [by_rho[rho].mean for rho in rhos],
        yerr=[by_rho[rho].std or 0.0 for rho in rhos],
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        capsize=2.5,
        elinewidth=1.0,
    )
    axis.set_xticks(rhos, [f"{rho:g}" for rho in rhos])
    axis.set_xticks([], minor=True)


def _methods(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row.method for row in summary.rows if row.method != "stl"))


def _presets(summary: Summary) -> list[str]:
    return list(dict.fromkeys(row.sharpness for row in summary.rows if row.method != "stl"))


def _arms(summary: Summary, method: str) -> list[Row]:
    return [row for row in summary.rows if row.method == method and row.runs]


def _handles(summary: Summary) -> list[Line2D]:
    looks = {name: look(name) for name in _presets(summary)}
    return [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.line, label=name)
        for name, s in looks.items()
    ]


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    if handles:
        # Columns are as wide as the longest label: about 0.08 inches a letter, and the line.
        widest = 0.6 + 0.08 * max(len(str(handle.get_label())) for handle in handles)
        columns = max(int(figure.get_figwidth() / widest), 1)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns))
