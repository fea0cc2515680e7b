"""The ends of descents of a toy problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from ...toy import Trajectory
from ._render import rich, to_csv
from ._table import Cell, Table, cell


def toy_table(trajectories: Sequence[Trajectory]) -> RichTable:
    """Creates the table of the ends of descents for the terminal, with a row per trajectory."""
    rows = [
        [
            Cell(t.setting.method),
            Cell(t.setting.sharpness),
            cell(t.setting.rho, "g"),
            _point(t.setting.start),
            _point(t.points[-1]),
            *(cell(float(loss), ".3f") for loss in t.losses[-1]),
            cell(t.sharpness, ".2f"),
            cell(t.distance, ".3f"),
        ]
        for t in trajectories
    ]
    title = "ends of the descents (distance: from the Pareto front, in loss space)"
    heads = ["method", "sharpness", "ρ", "start", "end", "l1", "l2", "λ_max", "distance"]
    return rich(Table(title, heads, rows), close=True)


def _point(x: Any) -> Cell:
    # + 0.0 turns a negative zero into zero.
    return Cell(f"({round(x[0], 2) + 0.0:g}, {round(x[1], 2) + 0.0:g})", tuple(x))


def write_toy_csv(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Writes the settings and ends of descents as CSV."""
    rows = [
        {
            "problem": t.setting.problem.name,
            "method": t.setting.method,
            "sharpness": t.setting.sharpness,
            "rho": t.setting.rho,
            "seed": t.setting.seed,
            "lr": t.setting.lr,
            "steps": t.setting.steps,
            "start_x1": t.setting.start[0],
            "start_x2": t.setting.start[1],
            "end_x1": float(t.points[-1, 0]),
            "end_x2": float(t.points[-1, 1]),
            "l1": float(t.losses[-1, 0]),
            "l2": float(t.losses[-1, 1]),
            "lambda_max": t.sharpness,
            "distance": t.distance,
        }
        for t in trajectories
    ]
    to_csv(path, Table.of_values(list(rows[0]), [row.values() for row in rows]))
