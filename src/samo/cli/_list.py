"""``samo list``: benchmarks, methods, presets and schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rich.table import Table

from .. import aggregation, benchmarks
from .._citation import source
from ..aggregation import Method
from ..training import PRESETS, SCHEDULES

_ABOUT = "what it is"


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


def _table(title: str, rows: Iterable[Mapping[str, str]]) -> Table:
    """Makes a table from rows that have a text for each column."""
    table = Table(title=title, title_justify="left", title_style="bold")
    rows = list(rows)
    for column in rows[0]:
        # The words of descriptions must not be broken.
        table.add_column(column, overflow="fold", min_width=14 if column == _ABOUT else None)
    for row in rows:
        table.add_row(*row.values())
    return table


def _benchmarks() -> Table:
    def row(name: str) -> dict[str, str]:
        kind = benchmarks.get(name)
        d = kind.defaults
        return {
            "name": name,
            _ABOUT: (inspect.getdoc(kind) or "").splitlines()[0],
            "epochs": f"{d.epochs}",
            "batch": f"{d.batch_size}",
            "lr": f"{d.lr:g}",
            "schedule": d.schedule,
            "ρ": ", ".join(f"{rho:g}" for rho in d.rho_grid),
        }

    return _table("benchmarks", map(row, benchmarks.available()))


def _methods(*, short: bool) -> Table:
    def row(name: str) -> dict[str, str]:
        method = aggregation.describe(name)
        more = {
            "needs": f"{method.needs}, losses" if method.sees_losses else method.needs,
            "state": state(method),
            "options": _defaults(method.defaults),
            "source": "; ".join(map(source, method.references)) or "–",
        }
        return {"name": name, _ABOUT: method.title, **({} if short else more)}

    title = "methods (details: samo list methods)" if short else "methods"
    return _table(title, map(row, aggregation.available()))


def _presets(*, short: bool) -> Table:
    def row(name: str) -> dict[str, str]:
        more = {} if short else {"options": _defaults(PRESETS[name].options)}
        return {"name": name, _ABOUT: PRESETS[name].title, **more}

    return _table("sharpness", map(row, PRESETS))


def _schedules() -> Table:
    def row(name: str) -> dict[str, str]:
        options = SCHEDULES[name].options
        shown = {n: "epochs/2" if value is None else value for n, value in options.items()}
        return {"name": name, _ABOUT: SCHEDULES[name].title, "options": _defaults(shown)}

    return _table("learning-rate schedules", map(row, SCHEDULES))


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
