"""The figures that only the page has: what the log holds, intervals, costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .._plots import _arms, _handles, _legend, _methods, _presets
from .._rows import Row, Spread, Summary
from ..style import MUTED, house_style, look, panels

Steps = Mapping[str, float]
_MOST_WEIGHTS = 4  # tasks whose weights have a panel each


def course(summary: Summary) -> Figure | None:
    """Draws what happened in training, by epoch: conflicts, sharpness and weights.

    A row a method, a line a preset, means over the seeds. *Conflicts*: the share of the task pairs
    whose gradients have a negative inner product, mean over the steps. *Sharpness*: the perturbed
    minus the natural loss, mean over steps and tasks. *Balance*: the smallest norm of a task's
    gradient over the largest. *Weight*: the share of a task in the sum of the absolute weights;
    only of methods that weight tasks.

    Args:
        summary: The comparison.

    Returns:
        The figure; None if nothing of this was logged.
    """
    methods = _methods(summary)
    runs = [run for m in methods for row in _arms(summary, m) for run in row.runs]
    logged = {name for run in runs for record in run["history"] for name in record.get("steps", ())}
    found = _quantities(logged)
    if not found:
        return None
    with house_style():
        figure, axes = panels(len(methods), len(found), sharex=True, sharey="col", height=1.9)
        for i, method in enumerate(methods):
            for axis, (title, value) in zip(axes[i], found, strict=True):
                drawn = [_line(axis, row, value) for row in _arms(summary, method)]
                axis.set_title(f"{method}: {title}")
                if not any(drawn):
                    axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center")
                    axis.texts[-1].set_color(MUTED)
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        _legend(figure, _handles(summary))
    return figure


Value = Callable[[Steps], float | None]


def _quantities(logged: set[str]) -> list[tuple[str, Value]]:
    tasks = sorted(name.removeprefix("weight/") for name in logged if name.startswith("weight/"))
    found: list[tuple[str, Value]] = []
    if "conflicts" in logged:
        found.append(("conflicts", lambda steps: steps.get("conflicts")))
    if any(name.startswith("sharpness/") for name in logged):
        found.append(("sharpness", _mean_sharpness))
    if any(name.startswith("gradient_norm/") for name in logged):
        found.append(("balance", _balance))
    if len(tasks) > _MOST_WEIGHTS:
        found.append(("largest weight", _largest_share))
    elif tasks:
        # The shares sum to one, so the last task's says nothing that the others do not.
        found += [(f"weight of {task}", partial(_share, task)) for task in tasks[:-1] or tasks]
    return found


def _by_task(steps: Steps, what: str) -> dict[str, float]:
    start = f"{what}/"
    return {n.removeprefix(start): value for n, value in steps.items() if n.startswith(start)}


def _mean_sharpness(steps: Steps) -> float | None:
    values = _by_task(steps, "sharpness").values()
    return sum(values) / len(values) if values else None


def _balance(steps: Steps) -> float | None:
    norms = _by_task(steps, "gradient_norm").values()
    return min(norms) / max(norms) if norms and max(norms) > 0 else None


def _largest_share(steps: Steps) -> float | None:
    return max(_shares(steps).values(), default=None)


def _share(task: str, steps: Steps) -> float | None:
    return _shares(steps).get(task)


def _shares(steps: Steps) -> dict[str, float]:
    weights = _by_task(steps, "weight")
    total = sum(map(abs, weights.values()))
    return {task: weight / total for task, weight in weights.items()} if total else {}


def by_epoch(row: Row, value: Value) -> np.ndarray | None:
    """A quantity of an arm by epoch, mean over the seeds; None where it was not logged."""
    series = [[value(record.get("steps", {})) for record in run["history"]] for run in row.runs]
    shortest = min(map(len, series), default=0)
    numbers = np.array([values[:shortest] for values in series], dtype=float)
    return None if not shortest or np.isnan(numbers).any() else numbers.mean(0)


def _line(axis: Axes, row: Row, value: Value) -> bool:
    values = by_epoch(row, value)
    if values is None:
        return False
    style = look(row.sharpness)
    every = max(len(values) // 5, 1)
    axis.plot(
        np.arange(1, len(values) + 1),
        values,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markevery=(every - 1, every),
    )
    return True


def conflict_map(summary: Summary) -> Figure | None:
    """Draws the share of conflicting task pairs of every arm and epoch.

    Args:
        summary: The comparison.

    Returns:
        The figure; None if it was not logged.
    """
    rows = [row for method in _methods(summary) for row in _arms(summary, method)]
    found = {
        f"{row.method} {row.sharpness}": values
        for row in rows
        if (values := by_epoch(row, lambda steps: steps.get("conflicts"))) is not None
    }
    if not found:
        return None
    longest = max(map(len, found.values()))
    grid = np.full((len(found), longest), np.nan)
    for i, values in enumerate(found.values()):
        grid[i, : len(values)] = values
    with house_style():
        figure, axes = panels(1, 1, height=0.6 + 0.17 * len(found))
        figure.set_figwidth(6.6)
        axis = axes[0, 0]
        edges = (np.arange(longest + 1) + 0.5, np.arange(len(found) + 1))
        mesh = axis.pcolormesh(*edges, grid, cmap="cividis", vmin=0, vmax=max(np.nanmax(grid), 0.1))
        axis.set_yticks(np.arange(len(found)) + 0.5, list(found))
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(mesh, ax=axis, label="share of conflicting pairs")
    return figure


def intervals(summary: Summary) -> Figure | None:
    """Draws what each preset changes against plain training, with 95 % confidence intervals.

    Large marks are over all methods, small ones of single methods.

    Args:
        summary: The comparison.

    Returns:
        The figure; None if there is nothing to compare.
    """
    shown = [name for name in ("average", "delta_m") if _spreads(summary, name)]
    if not shown:
        return None
    titles = {"delta_m": "Δm (%)"}
    better = {"delta_m": "← better"}
    if summary.columns:
        up = summary.columns[0].higher_is_better
        titles["average"] = f"average {summary.columns[0].label}"
        better["average"] = "better →" if up else "← better"
    counts = Counter(d.sharpness for d in summary.differences)
    starts = np.cumsum([0, *(count + 1 for count in counts.values())])
    with house_style():
        figure, axes = panels(1, len(shown), sharey=True, height=0.5 + 0.14 * starts[-1])
        for axis, name in zip(axes[0], shown, strict=True):
            _forest(axis, summary, name)
            axis.set_title(titles[name])
            axis.set_xlabel(better[name])
        middles = (starts[:-1] + starts[1:] - 2) / 2
        axes[0, 0].set_yticks(middles, list(counts))
        axes[0, 0].invert_yaxis()
    return figure


def _spreads(summary: Summary, name: str) -> list[Spread]:
    return [spread for d in summary.differences if (spread := getattr(d, name)) is not None]


def _forest(axis: Axes, summary: Summary, name: str) -> None:
    axis.axvline(0, color=MUTED, linewidth=0.9)
    y = 0
    previous = None
    for d in summary.differences:
        y += previous not in {None, d.sharpness}
        previous = d.sharpness
        spread: Spread | None = getattr(d, name)
        if spread is not None:
            style, overall = look(d.sharpness), len(d.methods) > 1
            axis.errorbar(
                spread.mean,
                y,
                xerr=spread.interval or 0.0,
                fmt=style.marker,
                color=style.colour,
                markersize=8 if overall else 4,
                elinewidth=2.0 if overall else 0.9,
                capsize=3 if overall else 2,
            )
            if len(d.methods) == 1:
                where = (spread.mean + (spread.interval or 0.0), y)
                axis.annotate(d.methods[0], where, (4, 0), textcoords="offset points", fontsize=7)
                axis.texts[-1].set(va="center", color=MUTED)
        y += 1
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.18)


def cost(summary: Summary) -> Figure | None:
    """Draws the time of a step, and the peak memory where it was recorded.

    Args:
        summary: The comparison.

    Returns:
        The figure; None if no run is finished.
    """
    names = [n for n in ("step_ms", "peak_memory_mb") if any(r.timings(n) for r in summary.rows)]
    if not _methods(summary) or not names:
        return None
    labels = {"step_ms": "time of a step (ms)", "peak_memory_mb": "peak memory (MB)"}
    with house_style():
        figure, axes = panels(1, len(names), height=2.4)
        for axis, name in zip(axes[0], names, strict=True):
            _bars(axis, summary, name)
            axis.set_ylabel(labels[name])
        _legend(figure, _bar_handles(summary))
    return figure


def _bars(axis: Axes, summary: Summary, name: str) -> None:
    methods, presets = _methods(summary), _presets(summary)
    width = 0.84 / len(presets)
    for i, method in enumerate(methods):
        for row in _arms(summary, method):
            if values := row.timings(name):
                j = presets.index(row.sharpness)
                x = i + width * (j - (len(presets) - 1) / 2)
                style = _bar_style(row.sharpness, j)
                axis.bar(x, sum(values) / len(values), width, **style)
    axis.set_xticks(range(len(methods)), methods)
    axis.grid(visible=False, axis="x")


_HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--")


def _bar_style(preset: str, i: int) -> dict[str, Any]:
    colour = look(preset).colour
    hatch = _HATCHES[i % len(_HATCHES)]
    face = colour if not hatch else "#ffffff"
    return {"facecolor": face, "edgecolor": colour, "hatch": hatch, "linewidth": 0.8}


def _bar_handles(summary: Summary) -> Sequence[Any]:
    from matplotlib.patches import Patch

    presets = _presets(summary)
    return [Patch(label=preset, **_bar_style(preset, i)) for i, preset in enumerate(presets)]
