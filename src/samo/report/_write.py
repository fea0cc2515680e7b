"""Everything that a comparison leaves behind: tables and figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ..records import write_atomically
from ._difference_tables import write_differences
from ._plots import delta_m, learning_curves, rho_grid
from ._rows import Summary
from ._tables import markdown, write_csv
from .style import house_style


def write(summary: Summary, out: Path | str) -> list[Path]:
    """Writes the tables (CSV, Markdown) and the figures (PNG, SVG).

    Args:
        summary: The comparison.
        out: The directory.

    Returns:
        The figures' PNG files; none where no run is finished.
    """
    out = Path(out)
    write_csv(out / "table.csv", summary)
    write_differences(out / "differences.csv", summary)
    text = markdown(summary)
    write_atomically(out / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    figures = {}
    if any(row.runs and row.method != "stl" for row in summary.rows):
        figures = {"learning_curves": learning_curves(summary), "delta_m": delta_m(summary)}
    if any(len(by_rho) > 1 for by_rho in summary.grid.values()):
        figures["rho"] = rho_grid(summary)
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            save(figure, out / f"{name}.{kind}")
    return [out / f"{name}.png" for name in figures]


def save(figure: Figure, path: Path) -> None:
    """Writes a figure. Equal figures make equal files: there is no date in them.

    Args:
        figure: The figure.
        path: The file; its suffix says the format, such as PNG or SVG.
    """
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    with house_style():
        write_atomically(
            path, lambda beside: figure.savefig(beside, format=kind, metadata=metadata)
        )
