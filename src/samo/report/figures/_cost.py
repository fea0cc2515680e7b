"""Time and memory: of the runs of a comparison, and of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ...cost import StepCost, step_costs
from ..summary import Summary
from .style import MUTED, grid, house_style, legend, look, panels, remark

_BARE = "#000000"
_HATCHES = ("", "////", "....", "\\\\\\\\", "xx", "--")


@house_style()
def run_costs(summary: Summary) -> Figure | None:
    """Draws the time of a step, and the peak memory if recorded; None without finished runs."""
    labels = {"step_ms": "time of a step (ms)", "peak_memory_mb": "peak memory (MB)"}
    names = [name for name in labels if any(row.timings(name) for row in summary.rows)]
    if not summary.methods or not names:
        return None
    styles = {name: _bar_style(name, i) for i, name in enumerate(summary.presets)}
    width = 0.84 / len(styles)
    figure, axes = panels(1, len(names), height=2.4)
    for axis, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(summary.methods):
            for row in summary.arms(method):
                if values := row.timings(name):
                    aside = list(styles).index(row.preset) - (len(styles) - 1) / 2
                    axis.bar(i + width * aside, fmean(values), width, **styles[row.preset])
        axis.set_xticks(range(len(summary.methods)), summary.methods)
        axis.grid(visible=False, axis="x")
        axis.set_ylabel(labels[name])
    legend(figure, [Patch(label=preset, **style) for preset, style in styles.items()])
    return figure


def _bar_style(preset: str, i: int) -> dict[str, Any]:
    colour, hatch = look(preset).colour, _HATCHES[i % len(_HATCHES)]
    face = "#ffffff" if hatch else colour
    return {"facecolor": face, "edgecolor": colour, "hatch": hatch, "linewidth": 0.8}


def time_figure(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws the time of each step relative to plain backprop.

    The bare arithmetic of a step is marked in its bar, if it was timed.

    Args:
        results: The results of `samo.cost.measure` for several cases.

    Returns:
        The figure, a panel per case; None if nothing was timed.
    """

    def draw(axis: Axes, row: StepCost, place: int) -> None:
        assert row.to_plain is not None
        at, low, high = row.to_plain.median, row.to_plain.low, row.to_plain.high
        axis.barh(place, at, height=0.72, color=_colour(row.name))
        axis.plot([low, high], [place, place], color=MUTED, linewidth=1.2)
        bare = 0.0 if row.bare_to_plain is None else row.bare_to_plain.median
        if bare:
            axis.plot([bare, bare], [place - 0.42, place + 0.42], color=_BARE, linewidth=2)
        _label(axis, f"{at:.3g}", max(at, high, bare), place)

    timed = [found for found in results if any(row.to_plain for row in step_costs(found))]
    bare = any(row.to_bare for found in timed for row in step_costs(found))
    mark = Line2D([], [], color=_BARE, linewidth=2, label="bare arithmetic of the step")
    label = "time of a step / sum(losses).backward()"
    return _bars(timed, draw, lambda row: row.to_plain is not None, label, [mark] if bare else [])


def memory_figure(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws the peak memory of each step.

    Args:
        results: The results of `samo.cost.measure` for several cases.

    Returns:
        The figure, a panel per case; None if memory was not measured.
    """

    def draw(axis: Axes, row: StepCost, place: int) -> None:
        assert row.peak_bytes is not None
        megabytes = row.peak_bytes / 1e6
        axis.barh(place, megabytes, height=0.72, color=_colour(row.name))
        _label(axis, f"{row.peak_to_plain:.2f}", megabytes, place)

    def known(row: StepCost) -> bool:
        return row.peak_to_plain is not None

    measured = [found for found in results if any(known(row) for row in step_costs(found))]
    handles = [Line2D([], [], linestyle="none", label="numbers: times plain backprop")]
    return _bars(measured, draw, known, "peak memory above the model's own (MB)", handles)


@house_style()
def _bars(
    results: Sequence[Mapping[str, Any]],
    draw: Callable[[Axes, StepCost, int], None],
    known: Callable[[StepCost], bool],
    label: str,
    handles: Sequence[Line2D],
) -> Figure | None:
    """Draws a panel per case, with a bar per step from top to bottom."""
    if not results:
        return None
    lines = max(len(step_costs(found)) for found in results)
    figure, axes = grid(len(results), columns=2, height=0.19 * lines + 0.75)
    figure.set_figwidth(4.2 * min(len(results), 2))
    for axis, found in zip(axes, results, strict=True):
        shown = [row for row in step_costs(found) if known(row)]
        for place, row in enumerate(shown):
            draw(axis, row, place)
        axis.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.14)
        axis.set_xlim(left=0)
        axis.grid(visible=False, axis="y")
        case, numbers = found["setting"]["case"], found["setting"]["numbers"]
        axis.set_title(f"{case}: K = {numbers['tasks']}, batch {numbers['batch']}")
        axis.set_xlabel(label)
    legend(figure, handles)
    return figure


def _label(axis: Axes, text: str, x: float, place: int) -> None:
    remark(axis, text, (x, place), (4, 0), va="center", color="black")


def _colour(name: str) -> str:
    """The colour of a step: that of its preset."""
    return look("random" if "random" in name else name.partition("-")[0]).colour
