"""Writes the tables and figures of a comparison, of measured costs, and of toy problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..records import write_atomically, write_text
from ..toy import Trajectory
from .figures import (
    delta_m,
    landscape,
    learning_curves,
    loss_space,
    memory_figure,
    rho_grid,
    time_figure,
)
from .figures.style import house_style
from .summary import Summary
from .tables import (
    costs_markdown,
    markdown,
    write_costs_csv,
    write_csv,
    write_differences,
    write_toy_csv,
)


def write(summary: Summary, out: Path | str) -> list[Path]:
    """Writes the tables (CSV, Markdown) and the figures (PNG, SVG) of a comparison.

    Args:
        summary: The comparison.
        out: The directory.

    Returns:
        The PNG files; none if no run is finished.
    """
    out = Path(out)
    write_csv(out / "table.csv", summary)
    write_differences(out / "differences.csv", summary)
    write_text(out / "table.md", markdown(summary))
    figures: dict[str, Figure | None] = {}
    if any(row.runs and not row.baseline for row in summary.rows):
        figures = {"learning_curves": learning_curves(summary), "delta_m": delta_m(summary)}
    if any(len(by_rho) > 1 for by_rho in summary.grid.values()):
        figures["rho"] = rho_grid(summary)
    return _write_figures(out, figures)


def write_costs(results: Sequence[Mapping[str, Any]], out: Path | str) -> list[Path]:
    """Writes ``table.md``, ``table.csv``, and the figures ``time`` and ``memory`` of each method.

    Args:
        results: The results of `samo.cost.measure` for several cases.
        out: The directory.

    Returns:
        The PNG files.
    """
    out = Path(out)
    write_text(out / "table.md", costs_markdown(results))
    write_costs_csv(out / "table.csv", results)
    figures = {}
    for method in dict.fromkeys(found["setting"]["method"] for found in results):
        of_method = [found for found in results if found["setting"]["method"] == method]
        figures[f"time-{method}"] = time_figure(of_method)
        figures[f"memory-{method}"] = memory_figure(of_method)
    return _write_figures(out, figures)


def write_toy(trajectories: Sequence[Trajectory], out: Path | str) -> list[Path]:
    """Writes ``table.csv`` and the figures ``landscape`` and ``loss_space`` (PNG, SVG).

    Args:
        trajectories: Trajectories of one problem.
        out: The directory.

    Returns:
        The PNG files.
    """
    out = Path(out)
    write_toy_csv(out / "table.csv", trajectories)
    figures = {"landscape": landscape(trajectories), "loss_space": loss_space(trajectories)}
    return _write_figures(out, figures)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure. Equal figures give equal files: they contain no date.

    Args:
        figure: The figure.
        path: The file; its suffix is the format, such as PNG or SVG.
    """
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    with house_style():
        write_atomically(path, lambda file: figure.savefig(file, format=kind, metadata=metadata))


def _write_figures(out: Path, figures: Mapping[str, Figure | None]) -> list[Path]:
    """Writes figures as PNG and SVG; returns the PNG files."""
    files = []
    for name, figure in figures.items():
        if figure is not None:
            files.append(out / f"{name}.png")
            save(figure, files[-1])
            save(figure, files[-1].with_suffix(".svg"))
    return files
