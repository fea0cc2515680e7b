"""The house style of all figures: colour-blind safe, and legible in grey.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), in an order in which
their lightness differs too. Whatever is told apart by colour is told apart by marker and line as
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Look:
    """How something is drawn: colour, marker and line."""

    colour: str
    marker: str
    line: Any


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
}
_OTHER = Look("#7F3C8D", "*", "-.")
# Light and dark by turns: neighbours differ in grey too.
_ALL = (*(LOOKS[name] for name in ("gsam", "samo", "erm", "lsam", "fmtl")), _OTHER, LOOKS["random"])

MUTED = "#555555"  # what is not a preset: levels, remarks
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
    """Finds how a sharpness preset is drawn, the same in every figure.

    Args:
        name: The preset.

    Returns:
        Its look.
    """
    return LOOKS.get(name, _OTHER)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Finds looks that can be told apart: a preset has its own, others those that are left.

    Args:
        names: What is drawn in one figure: presets, tasks, runs, clusters.

    Returns:
        The looks by name. From the eighth name on colours come again, with other markers and lines.
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
    """Keeps a name from being read as a formula.

    Args:
        text: The name, as the user has given it.

    Returns:
        What matplotlib shows as that name.
    """
    return text.replace("$", r"\$")


@contextmanager
def house_style() -> Iterator[None]:
    """Draws in the house style within the block.

    Yields:
        Nothing.
    """
    with mpl.rc_context(_STYLE):
        yield


def panels(rows: int, columns: int, *, height: float = 2.5, **options: Any) -> tuple[Figure, Any]:
    """Makes a figure of equal panels, without the global state of pyplot.

    Args:
        rows: The number of rows.
        columns: The number of columns.
        height: The height of a panel in inches.
        **options: Those of ``Figure.subplots``.

    Returns:
        The figure, and its axes of shape ``[rows, columns]``.
    """
    figure = Figure(figsize=(WIDTH * columns, height * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
