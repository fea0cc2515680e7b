"""``samo list``: benchmarks, methods, presets and schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rich.table import Table

from .. import aggregation, benchmarks
from .._citation import source
from ..aggregation import Method
from ..training import PRESETS, SCHEDULES


def tables(what: str | None) -> list[Table]:
    """Makes the tables of ``samo list``.

    Args:
        what: ``"benchmarks"``, ``"methods"``, ``"sharpness"`` or ``"schedules"``; None for a short
            form of all.

    Returns:
        The tables.
    """
    short = what is None
    made: dict[str, Callable[[], Table]] = {
        "benchmarks": _benchmarks,
        "methods": partial(_methods, short=short),
        "sharpness": partial(_presets, short=short),
        "schedules": _schedules,
    }
    return [make() for name, make in made.items() if short or name == what]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        # The words of descriptions must not be broken.
        table.add_column(column, overflow="fold", min_width=14 if column == "what it is" else None)
    return table


def _benchmarks() -> Table:
    table = _table("benchmarks", "name", "what it is", "epochs", "batch", "lr", "schedule", "ρ")
    for name in benchmarks.available():
        kind = benchmarks.get(name)
        d = kind.defaults
        line = (inspect.getdoc(kind) or "").splitlines()[0]
        grid = ", ".join(f"{rho:g}" for rho in d.rho_grid)
        figures = [f"{d.epochs}", f"{d.batch_size}", f"{d.lr:g}", d.schedule, grid]
        table.add_row(name, line, *figures)
    return table


def _methods(*, short: bool) -> Table:
    if short:
        table = _table("methods (details: samo list methods)", "name", "what it is")
    else:
        table = _table("methods", "name", "what it is", "needs", "state", "options", "source")
    for name in aggregation.available():
        method = aggregation.describe(name)
        row = [name, method.title]
        if not short:
            row += [_needs(method), state(method), _defaults(method.defaults)]
            row.append("; ".join(map(source, method.references)) or "–")
        table.add_row(*row)
    return table


def _presets(*, short: bool) -> Table:
    columns = ["name", "what it is"] if short else ["name", "what it is", "options"]
    table = _table("sharpness", *columns)
    for name, preset in PRESETS.items():
        row = [name, preset.title]
        if not short:
            row.append(_defaults(preset.options))
        table.add_row(*row)
    return table


def _schedules() -> Table:
    table = _table("learning-rate schedules", "name", "what it is", "options")
    for name, schedule in SCHEDULES.items():
        options = {n: "epochs/2" if v is None else v for n, v in schedule.options.items()}
        table.add_row(name, schedule.title, _defaults(options))
    return table


def _needs(method: Method) -> str:
    return f"{method.needs}, losses" if method.sees_losses else method.needs


def state(method: Method) -> str:
    """Formats whether a method keeps a state from step to step, or trains parameters."""
    if method.trained:
        return "trained"
    return "kept" if method.stateful else "–"


def assigned(options: Mapping[str, Any]) -> list[str]:
    """Formats options, such as ``alpha=2``; a function by its name."""
    return [
        f"{name}={value.__name__.strip('_') if inspect.isfunction(value) else value}"
        for name, value in options.items()
    ]


def _defaults(options: Mapping[str, Any]) -> str:
    return ", ".join(assigned(options)) or "–"
