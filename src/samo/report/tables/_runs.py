"""The runs: the state, configuration and environment of each."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ...records.foreign import plain
from ...records.scan import FoundRun, Problem, State
from ...records.schema import reported
from ._table import Cell, Table, cell

_FIRST = ("benchmark", "method", "sharpness", "rho", "level", "seed", "tasks")
_ORDER: tuple[State, ...] = ("finished", "failed", "unreadable", "unfinished", "missing")


def count_states(runs: Iterable[FoundRun]) -> str:
    """Formats the number of runs in each state, such as ``"3 finished, 1 missing"``."""
    states = Counter(run.state for run in runs)
    return ", ".join(f"{states[state]} {state}" for state in _ORDER if states[state])


def run_tables(runs: Sequence[FoundRun]) -> list[Table]:
    """Creates the tables of all runs, of their shared settings, and of their environments."""
    configs = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [name for name in names if len({_json(c.get(name)) for c in configs}) > 1]
    shared = [[Cell(n), _setting(v)] for n, v in configs[0].items() if n not in differing]
    abouts = [(run.results or {}).get("environment") or {} for run in runs]
    tables = [
        _all_runs(runs, configs, differing, abouts),
        Table("Settings that all runs share", ["setting", "value"], shared, id="settings-table"),
    ]
    return tables + ([_environments(abouts)] if any(abouts) else [])


def _all_runs(
    runs: Sequence[FoundRun],
    configs: Sequence[dict[str, Any]],
    differing: Sequence[str],
    abouts: Sequence[dict[str, Any]],
) -> Table:
    """All runs, with the settings in which they differ."""
    letters = _letters(abouts)
    options = [name for name in differing if "." in name]
    timings = [run.results["timing"] if run.results else _timing_so_far(run) for run in runs]
    columns = [
        ("run", [Cell(run.path) for run in runs]),
        ("state", [Cell(run.state, _ORDER.index(run.state), run.state) for run in runs]),
        ("done", map(_epochs, runs)),
        *(
            (name, [_setting(config.get(name)) for config in configs])
            for name in differing
            if "." not in name
        ),
        ("validation score", [cell(_score(run), ".4g") for run in runs]),
        ("step (ms)", [cell(timing.get("step_ms"), ".1f") for timing in timings]),
        ("run (s)", [cell(timing.get("total_s"), ".1f") for timing in timings]),
        ("memory (MB)", [cell(timing.get("peak_memory_mb"), ".0f") for timing in timings]),
        ("environment", [cell(letters.get(_json(about))) for about in abouts]),
    ]
    if options:
        columns.append(("options", [_options(config, options) for config in configs]))
    if any(run.error for run in runs):
        columns.append(("error", [cell(run.error, mark="wide") for run in runs]))
    note = "Unfinished runs: the best validation score so far."
    return Table.of_columns(columns, title="All runs", notes=[note], id="runs-table")


def _environments(abouts: Sequence[dict[str, Any]]) -> Table:
    """The machines and versions that the runs were made with."""
    letters = _letters(abouts)
    counts = Counter(map(_json, abouts))
    different = {text: json.loads(text) for text in letters}
    names = dict.fromkeys(name for about in different.values() for name in about)
    rows = [
        [Cell(letters[text]), cell(counts[text]), *(_setting(about.get(name)) for name in names)]
        for text, about in different.items()
    ]
    heads = ["environment", "runs", *names]
    return Table("Environments", heads, rows, id="environments-table")


def problems_table(problems: Sequence[Problem]) -> Table:
    """Creates the table of files that were left out."""
    shown = problems[:500]
    rows = [[Cell(problem.path), Cell(problem.reason, mark="wide")] for problem in shown]
    more = len(problems) - len(shown)
    notes = [f"{more} more are not listed."] if more else []
    return Table("Left out", ["path", "reason"], rows, notes=notes, id="problems-table")


def _letters(abouts: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Names the different environments A, B ..; the keys are their JSON."""
    different = dict.fromkeys(_json(about) for about in abouts if about)
    names = [*string.ascii_uppercase, *(f"E{i + 1}" for i in range(26, len(different)))]
    return dict(zip(different, names, strict=False))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Flattens a configuration: ``sharpness_options.mu`` and the like become settings."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_options") and isinstance(value, dict):
            settings |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            settings[name] = value
    first = {name: settings[name] for name in _FIRST if name in settings}
    return {**first, **settings}


def _setting(value: Any) -> Cell:
    if value is None:
        return Cell()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(plain(value if isinstance(value, str) else json.dumps(value), 200))
    return Cell(f"{value:.6g}" if isinstance(value, float) else plain(str(value), 40), value)


def _options(config: dict[str, Any], names: Sequence[str]) -> Cell:
    """The options of the method and preset in which the runs differ."""
    given = {name.partition(".")[2]: config[name] for name in names if name in config}
    text = ", ".join(f"{name} = {_setting(value).text}" for name, value in given.items())
    return cell(plain(text), mark="wide")


def _epochs(run: FoundRun) -> Cell:
    done = len(run.results["history"]) if run.results else len(run.log)
    total = run.config.get("epochs")
    return Cell(f"{done}/{total}" if total else str(done), done)


def _score(run: FoundRun) -> float | None:
    if run.results is not None:
        return float(reported(run.results)["score"])
    return max((record["score"] for record in run.log), default=None)


def _timing_so_far(run: FoundRun) -> dict[str, Any]:
    """The timing of a run that is not finished: that of its last epoch, and the sum."""
    last = dict(run.log[-1]["timing"]) if run.log else {}
    epochs = [record["timing"].get("epoch_s") for record in run.log]
    total = sum(value for value in epochs if value is not None)
    return {**last, "total_s": total or None}
