"""The course of training: conflicts, sharpness and weights by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..summary import Row, Summary
from ._comparison import preset_entries
from .style import MUTED, count_epochs, curve, house_style, legend, look, panels

Steps = Mapping[str, float]
Value = Callable[[Steps], float | None]
_MOST_WEIGHTS = 4  # tasks whose weights have a panel each


@house_style()
def course(summary: Summary) -> Figure | None:
    """Draws conflicts, sharpness and weights during training, by epoch.

    There is a row per method and a line per preset; lines are means over the seeds. Averaged
    weights have no course of their own. *Conflicts*: the share of the task pairs whose gradients
    have a negative inner product, mean over the steps.
    *Sharpness*: the perturbed minus the natural loss, mean over steps and tasks. *Balance*: the
    smallest norm of a task's gradient over the largest. *Weight*: the share of a task in the sum of
    the absolute weights, for methods that weight tasks.

    Args:
        summary: The comparison.

    Returns:
        The figure; None if none of these was logged.
    """
    summary = _trained(summary)
    methods = summary.methods
    runs = [run for m in methods for row in summary.arms(m) for run in row.runs]
    logged = {name for run in runs for record in run["history"] for name in record.get("steps", ())}
    found = _quantities(logged)
    if not found:
        return None
    figure, axes = panels(len(methods), len(found), sharex=True, sharey="col", height=1.9)
    for i, method in enumerate(methods):
        for axis, (title, value) in zip(axes[i], found, strict=True):
            axis.set_title(f"{method}: {title}")
            for row in summary.arms(method):
                if (values := _by_epoch(row, value)) is not None:
                    epochs = np.arange(1, values.shape[1] + 1)
                    curve(axis, epochs, values, look(row.preset), band=False)
            if not axis.lines:
                place = {"transform": axis.transAxes, "ha": "center", "color": MUTED}
                axis.text(0.5, 0.5, "not logged", **place)
            count_epochs(axis, "epoch" if i == len(methods) - 1 else "")
    legend(figure, preset_entries(summary))
    return figure


@house_style()
def conflict_map(summary: Summary) -> Figure | None:
    """Draws the share of conflicting task pairs by arm and epoch; None if it was not logged."""
    found = {
        f"{row.method} {row.preset}": values.mean(0)
        for method in summary.methods
        for row in _trained(summary).arms(method)
        if (values := _by_epoch(row, lambda steps: steps.get("conflicts"))) is not None
    }
    if not found:
        return None
    longest = max(map(len, found.values()))
    grid = np.full((len(found), longest), np.nan)
    for i, values in enumerate(found.values()):
        grid[i, : len(values)] = values
    figure, axes = panels(1, 1, height=0.6 + 0.17 * len(found))
    figure.set_figwidth(6.6)
    axis = axes[0, 0]
    edges = (np.arange(longest + 1) + 0.5, np.arange(len(found) + 1))
    mesh = axis.pcolormesh(*edges, grid, cmap="cividis", vmin=0, vmax=max(np.nanmax(grid), 0.1))
    axis.set_yticks(np.arange(len(found)) + 0.5, list(found))
    axis.invert_yaxis()
    axis.grid(visible=False)
    count_epochs(axis)
    figure.colorbar(mesh, ax=axis, label="share of conflicting pairs")
    return figure


def _trained(summary: Summary) -> Summary:
    """The arms of the weights that were trained, without averaged ones."""
    return replace(summary, rows=tuple(row for row in summary.rows if row.weights == "raw"))


def _by_epoch(row: Row, value: Value) -> NDArray[np.float64] | None:
    """A quantity of an arm, shape ``[seeds, epochs]``; None if it was not logged throughout."""
    series = [[value(record.get("steps", {})) for record in run["history"]] for run in row.runs]
    shortest = min(map(len, series), default=0)
    numbers = np.array([values[:shortest] for values in series], dtype=float)
    return None if not shortest or np.isnan(numbers).any() else numbers


def _quantities(logged: set[str]) -> list[tuple[str, Value]]:
    """The titles and values of the quantities that were logged."""
    found: list[tuple[str, Value]] = []
    if "conflicts" in logged:
        found.append(("conflicts", lambda steps: steps.get("conflicts")))
    if _of_tasks(logged, "sharpness"):
        found.append(("sharpness", _mean_sharpness))
    if _of_tasks(logged, "gradient_norm"):
        found.append(("balance", _balance))
    tasks = _of_tasks(logged, "weight")
    if len(tasks) > _MOST_WEIGHTS:
        found.append(("largest weight", lambda steps: max(_shares(steps).values(), default=None)))
    else:
        # The shares sum to one, so the last task's is implied by the others.
        found += [(f"weight of {task}", partial(_share, task)) for task in tasks[:-1] or tasks]
    return found


def _of_tasks(names: set[str] | Steps, quantity: str) -> list[str]:
    start = f"{quantity}/"
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


def _values(steps: Steps, quantity: str) -> list[float]:
    return [steps[f"{quantity}/{task}"] for task in _of_tasks(steps, quantity)]


def _mean_sharpness(steps: Steps) -> float | None:
    values = _values(steps, "sharpness")
    return sum(values) / len(values) if values else None


def _balance(steps: Steps) -> float | None:
    norms = _values(steps, "gradient_norm")
    return min(norms) / max(norms) if norms and max(norms) > 0 else None


def _shares(steps: Steps) -> dict[str, float]:
    total = sum(map(abs, _values(steps, "weight")))
    tasks = _of_tasks(steps, "weight") if total else []
    return {task: steps[f"weight/{task}"] / total for task in tasks}


def _share(task: str, steps: Steps) -> float | None:
    return _shares(steps).get(task)
