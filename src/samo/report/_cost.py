"""The figures of what steps cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..cost import Row, rows
from ._plots import _legend
from .style import MUTED, house_style, look, panels

_COLUMNS = 2
_BARE = "#000000"


def time_figure(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws the time of each step, times ERM's, with its bare arithmetic marked in the bar.

    Args:
        results: What `samo.cost.measure` gave, of several cases.

    Returns:
        The figure, a panel a case; None where nothing was timed beside ERM.
    """

    def draw(axis: Axes, row: Row, place: int) -> None:
        if row.to_erm is None or row.bare_to_erm is None or row.to_bare is None:
            return
        at, low, high = row.to_erm.median, row.to_erm.low, row.to_erm.high
        axis.barh(place, at, height=0.72, color=look(_preset(row.name)).colour)
        axis.plot([low, high], [place, place], color=MUTED, linewidth=1.2)
        bare = row.bare_to_erm.median
        axis.plot([bare, bare], [place - 0.42, place + 0.42], color=_BARE, linewidth=2)
        axis.annotate(
            f"{row.to_bare.median:.2f} ×",
            (max(at, high, bare), place),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=7.5,
        )

    timed = [found for found in results if any(row.to_erm for row in rows(found))]
    handles = [
        Line2D([], [], color=_BARE, linewidth=2, label="bare arithmetic of the step"),
        _remark("numbers: times the bare arithmetic"),
    ]
    return _bars(timed, draw, lambda row: row.to_erm is not None, "time of a step / ERM", handles)


def memory_figure(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws the peak memory of each step.

    Args:
        results: What `samo.cost.measure` gave, of several cases.

    Returns:
        The figure, a panel a case; None where memory was not measured.
    """

    def draw(axis: Axes, row: Row, place: int) -> None:
        assert row.peak_bytes is not None
        assert row.above_one_pass is not None
        megabytes = row.peak_bytes / 1e6
        axis.barh(place, megabytes, height=0.72, color=look(_preset(row.name)).colour)
        axis.annotate(
            f"{row.above_one_pass:.1f} m",
            (megabytes, place),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=7.5,
        )

    def known(row: Row) -> bool:
        return row.above_one_pass is not None

    measured = [found for found in results if any(known(row) for row in rows(found))]
    note = "numbers: above one forward and backward pass, in numbers a shared parameter"
    return _bars(measured, draw, known, "peak memory above the model's own (MB)", [_remark(note)])


def _bars(
    results: Sequence[Mapping[str, Any]],
    draw: Callable[[Axes, Row, int], None],
    known: Callable[[Row], bool],
    label: str,
    handles: Sequence[Line2D],
) -> Figure | None:
    """A panel a case, with a bar a step from top to bottom."""
    if not results:
        return None
    columns = min(_COLUMNS, len(results))
    lines = max(len(rows(found)) for found in results)
    with house_style():
        count = -(-len(results) // columns)
        figure, axes = panels(count, columns, height=0.19 * lines + 0.75)
        figure.set_figwidth(4.2 * columns)
        for axis, found in zip(axes.flat, results, strict=False):
            shown = [row for row in rows(found) if known(row)]
            for place, row in enumerate(shown):
                draw(axis, row, place)
            axis.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=8)
            axis.invert_yaxis()
            axis.margins(x=0.14)
            axis.set_xlim(left=0)
            axis.grid(visible=False, axis="y")
            numbers = found["setting"]["numbers"]
            axis.set_title(
                f"{found['setting']['case']}: K = {numbers['tasks']}, batch {numbers['batch']}"
            )
            axis.set_xlabel(label)
        for axis in axes.flat[len(results) :]:
            axis.set_visible(False)
        _legend(figure, handles)
    return figure


def _remark(text: str) -> Line2D:
    return Line2D([], [], linestyle="none", label=text)


def _preset(name: str) -> str:
    """The preset whose colour a step has."""
    return "random" if "random" in name else name.partition("-")[0]
