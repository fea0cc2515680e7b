"""What descents of a toy problem leave behind: a table, and the figures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..records import write_atomically
from ..toy import Trajectory
from ._toy import landscape, loss_space
from ._write import save


def toy_table(trajectories: Sequence[Trajectory]) -> Table:
    """Where the descents have ended.

    Args:
        trajectories: The trajectories.

    Returns:
        A table with a row for each.
    """
    title = "where the descents have ended (distance: from the Pareto front, in loss space)"
    # Fits a terminal of 80 columns.
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("method", "sharpness"):
        table.add_column(column)
    for column in ("ρ", "start", "end", "l1", "l2", "λ_max", "distance"):
        table.add_column(column, justify="right")
    for t in trajectories:
        setting = t.setting
        table.add_row(
            setting.method,
            setting.sharpness,
            "–" if setting.rho is None else f"{setting.rho:g}",
            _point(setting.start),
            _point(t.points[-1]),
            *(f"{loss:.3f}" for loss in t.losses[-1]),
            f"{t.sharpness:.2f}",
            "–" if t.distance is None else f"{t.distance:.3f}",
        )
    return table


def write_toy(trajectories: Sequence[Trajectory], out: Path | str) -> list[Path]:
    """Writes ``table.csv`` and the figures ``landscape`` and ``loss_space`` (PNG, SVG).

    Args:
        trajectories: Trajectories of one problem.
        out: The directory.

    Returns:
        The figures' PNG files.
    """
    out = Path(out)
    rows = [_row(t) for t in trajectories]

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(out / "table.csv", write)
    figures = {"landscape": landscape(trajectories), "loss_space": loss_space(trajectories)}
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            save(figure, out / f"{name}.{kind}")
    return [out / f"{name}.png" for name in figures]


def _point(x: Any) -> str:
    # + 0.0, or there would be a negative zero
    return f"({round(x[0], 2) + 0.0:g}, {round(x[1], 2) + 0.0:g})"


def _row(t: Trajectory) -> dict[str, Any]:
    setting = t.setting
    return {
        "problem": setting.problem.name,
        "method": setting.method,
        "sharpness": setting.sharpness,
        "rho": setting.rho,
        "seed": setting.seed,
        "lr": setting.lr,
        "steps": setting.steps,
        "start_x1": setting.start[0],
        "start_x2": setting.start[1],
        "end_x1": float(t.points[-1, 0]),
        "end_x2": float(t.points[-1, 1]),
        "l1": float(t.losses[-1, 0]),
        "l2": float(t.losses[-1, 1]),
        "lambda_max": t.sharpness,
        "distance": t.distance,
    }
