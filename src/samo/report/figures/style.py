"""The house style of all figures: colour-blind safe, and legible in grey.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/) and of Paul Tol
(https://sronpersonalpages.nl/~pault/), ordered so that their lightness differs too. Looks of
different colours have different markers and lines as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

Fill = Literal["full", "none", "left", "top"]
# At the default level, and at another one.
_FILLS: tuple[Fill, Fill] = ("full", "none")
_FILLS_OF_AVERAGES: tuple[Fill, Fill] = ("left", "top")


@dataclass(frozen=True)
class Look:
    """Style of a curve or a mark: colour, marker and line; hollow or half-filled markers."""

    colour: str
    marker: str
    line: Any
    fill: Fill = "full"

    @property
    def pen(self) -> dict[str, Any]:
        """The arguments of ``Axes.plot`` and ``Line2D``."""
        pen = {"color": self.colour, "marker": self.marker, "linestyle": self.line}
        if self.fill == "none":
            return {**pen, "markerfacecolor": "white"}
        return {**pen, "fillstyle": self.fill, "markerfacecoloralt": "white"}


LOOKS = {
    "erm": Look("#000000", "o", "-"),
    "gsam": Look("#0072B2", "s", (0, (5, 1.5))),
    "lsam": Look("#56B4E9", "^", (0, (1, 1))),
    "fmtl": Look("#009E73", "D", (0, (3, 1, 1, 1))),
    "samo": Look("#D55E00", "v", (0, (8, 1.5, 2, 1.5))),
    "random": Look("#999999", "X", (0, (2, 2))),
    "previous": Look("#F0E442", "<", (0, (1, 2))),
    "groups": Look("#CC79A7", "P", (0, (4, 1, 1, 1, 1, 1))),
    "last-layers": Look("#E69F00", ">", (0, (6, 2))),
    "msam": Look("#882255", "p", (0, (2, 1, 6, 1))),
    "heads": Look("#999933", "h", (0, (4, 2))),
}
_OTHER = Look("#7F3C8D", "*", "-.")
# Light and dark in turn: neighbours differ in grey too.
_ALL = (*(LOOKS[name] for name in ("gsam", "samo", "erm", "lsam", "fmtl")), _OTHER, LOOKS["random"])

MUTED = "#555555"  # for levels and remarks
WIDTH = 3.3  # inches of a panel

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "svg.hashsalt": "samo",  # the same figure gives the same file
    "svg.fonttype": "none",
}


def look(name: str) -> Look:
    """The look of an arm: that of its preset, hollow at another level, half-filled if averaged."""
    arm, _, averaged = name.partition("+")
    preset, _, level = arm.partition("@")
    fills = _FILLS_OF_AVERAGES if averaged else _FILLS
    return replace(LOOKS.get(preset, _OTHER), fill=fills[bool(level)])


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Assigns distinct looks: each preset has its own, other names get the remaining ones.

    Args:
        names: The presets, tasks, runs or clusters in a figure.

    Returns:
        The looks by name. From the eighth name on colours are reused with other markers and lines.
    """
    names = list(dict.fromkeys(names))
    found = {name: LOOKS[name] for name in names if name in LOOKS}
    others = [style for style in _ALL if style not in found.values()]
    for i, name in enumerate(name for name in names if name not in found):
        turn, k = divmod(i, len(others))
        style, apart = others[k], others[(k + turn) % len(others)]
        found[name] = Look(style.colour, apart.marker, apart.line)
    return {name: found[name] for name in names}


def plain(text: str) -> str:
    """Escapes a name so that matplotlib does not parse it as a formula."""
    return text.replace("$", r"\$")


@contextmanager
def house_style() -> Iterator[None]:
    """Applies the house style within a block, or as a decorator in a function."""
    with mpl.rc_context(_STYLE):
        yield


def panels(rows: int, columns: int, *, height: float = 2.5, **options: Any) -> tuple[Figure, Any]:
    """Creates a figure of equal panels, with axes of shape ``[rows, columns]``, without pyplot."""
    figure = Figure(figsize=(WIDTH * columns, height * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def entries(styles: Mapping[str, Look]) -> list[Line2D]:
    """Creates the entries of a legend from looks by name."""
    return [Line2D([], [], **style.pen, label=plain(name)) for name, style in styles.items()]


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Places a legend below all panels, in as many columns as fit."""
    if handles:
        # Columns are as wide as the longest label: about 0.08 inches a letter, and the line.
        widest = 0.6 + 0.08 * max(len(str(handle.get_label())) for handle in handles)
        columns = max(int(figure.get_figwidth() / widest), 1)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns))


def finite_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the rows, without NaN; NaN where a column has no number."""
    known = np.isfinite(values)
    total, n = np.where(known, values, 0.0).sum(0), known.sum(0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def curve(
    axis: Axes, x: ArrayLike, values: ArrayLike, style: Look, *, band: bool = True, **options: Any
) -> None:
    """Draws the mean of several seeds, with a band from the lowest to the highest.

    Values have shape ``[seeds, n]``, NaN where there is none; options are those of ``Axes.plot``.
    """
    x, values = np.asarray(x, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = np.isfinite(values).any(0)
    if not known.any():
        return
    every = max(len(x) // 5, 1)
    pen = {**style.pen, "markevery": (every - 1, every), **options}
    axis.plot(x, finite_mean(values), **pen)
    if band and len(values) > 1:
        low, high = np.nanmin(values[:, known], 0), np.nanmax(values[:, known], 0)
        axis.fill_between(x[known], low, high, color=style.colour, alpha=0.12, linewidth=0)


def marks(axis: Axes, x: Any, y: Any, style: Look, **options: Any) -> None:
    """Draws marks with error bars: ``Axes.errorbar`` with the look, without a line."""
    pen = {**style.pen, "linestyle": "", "capsize": 2.5, "elinewidth": 1.0}
    axis.errorbar(x, y, **{**pen, **options})


def lengths(middle: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Returns the lengths of error bars down and up, at least 0 despite rounding."""
    middle, low, high = map(np.asarray, (middle, low, high))
    return np.maximum([middle - low, high - middle], 0.0)


def count_epochs(axis: Axes, label: str = "epoch", ticks: int = 10) -> None:
    """Labels the x-axis by whole epochs or steps, with at most `ticks` ticks."""
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))


def remark(axis: Axes, text: str, point: Any, offset: tuple[float, float], **options: Any) -> None:
    """Writes a small remark beside a point, at an offset in typographic points."""
    options = {"fontsize": 7.5, "color": MUTED, "textcoords": "offset points", **options}
    axis.annotate(text, point, xytext=offset, **options)


def grid(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Creates a figure of `count` panels, in as many rows as needed."""
    columns = min(count, columns)
    figure, axes = panels(-(-count // columns), columns, height=height)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])
