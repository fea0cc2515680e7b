"""``samo list``: benchmarks, methods, presets and schedules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.table import Table

from .. import aggregation, benchmarks
from .._citation import source
from ..aggregation import Method
from ..training import PRESETS, SCHEDULES

_ABOUT = "description"
NOTES = {
    "methods": "level: where task gradients can be compared. At the representation "
    "(--level representation), fairgrad was as accurate as at the parameters or better on three "
    "benchmarks, with one backward pass for all tasks; mgda and upgrad lost accuracy in "
    "regression (docs/results.md)."
}
"""What to say below a table."""


def tables(what: str | None) -> list[Table]:
    """Creates the tables of ``samo list``; if no kind is given, all in a short form."""
    short = what is None
    made: dict[str, Callable[[], Table]] = {
        "benchmarks": _benchmarks,
        "methods": partial(_methods, short=short),
        "sharpness": partial(_presets, short=short),
        "schedules": _schedules,
    }
    return [make() for name, make in made.items() if short or name == what]


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """Creates a table from rows that have a text for each column."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0]:
        # Do not break the words of descriptions.
        table.add_column(column, overflow="fold", min_width=14 if column == _ABOUT else None)
    for row in rows:
        table.add_row(*row.values())
    return table


def _benchmarks() -> Table:
    rows = []
    for name in benchmarks.available():
        kind = benchmarks.get(name)
        d = kind.defaults
        rows.append(
            {
                "name": name,
                _ABOUT: (inspect.getdoc(kind) or "").splitlines()[0],
                "epochs": f"{d.epochs}",
                "batch": f"{d.batch_size}",
                "lr": f"{d.lr:g}",
                "schedule": d.schedule,
                "ρ": ", ".join(f"{rho:g}" for rho in d.rho_grid),
            }
        )
    return _table("benchmarks", rows)


def _methods(*, short: bool) -> Table:
    rows = []
    for name in aggregation.available():
        method = aggregation.describe(name)
        rows.append({"name": name, _ABOUT: method.title})
        if not short:
            rows[-1] |= {
                "needs": f"{method.needs}, losses" if method.sees_losses else method.needs,
                "level": level(method.levels),
                "state": state(method),
                "options": _defaults(method.defaults),
                "source": "; ".join(map(source, method.references)) or "–",
            }
    return _table("methods (details: samo list methods)" if short else "methods", rows)


def _presets(*, short: bool) -> Table:
    rows = []
    for name, preset in PRESETS.items():
        rows.append({"name": name, _ABOUT: preset.title})
        if not short:
            rows[-1] |= {"level": level(preset.levels), "options": _defaults(preset.options)}
    return _table("sharpness", rows)


def _schedules() -> Table:
    rows = []
    for name, schedule in SCHEDULES.items():
        options = {n: "epochs/2" if v is None else v for n, v in schedule.options.items()}
        rows.append({"name": name, _ABOUT: schedule.title, "options": _defaults(options)})
    return _table("learning-rate schedules", rows)


def level(levels: Sequence[str]) -> str:
    """Formats the levels at which task gradients can be compared."""
    return "both" if len(levels) > 1 else ", ".join(levels) or "–"


def state(method: Method) -> str:
    """Formats whether a method has a state that persists between steps, or trains parameters."""
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
