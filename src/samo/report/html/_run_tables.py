"""The tables of runs: the state, configuration and environment of each."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ...records.foreign import plain
from ...records.scan import Findings, FoundRun, State
from ...records.schema import reported
from ._blocks import NONE, Cell, Table, number

_FIRST = ("benchmark", "method", "sharpness", "rho", "seed", "tasks")
ORDER: tuple[State, ...] = ("finished", "failed", "unreadable", "unfinished", "missing")


def counted(runs: Iterable[FoundRun]) -> str:
    """Words how many runs are in which state.

    Args:
        runs: The runs.

    Returns:
        For instance ``"3 finished, 1 missing"``.
    """
    states = Counter(run.state for run in runs)
    return ", ".join(f"{states[state]} {state}" for state in ORDER if states[state])


def run_table(runs: Sequence[FoundRun], environments: Sequence[str]) -> Table:
    """Makes the table of all runs, with the settings in which they differ.

    Args:
        runs: The runs.
        environments: What `environment` gives, for each run.

    Returns:
        The table.
    """
    configs = [flat(run.config) for run in runs]
    differing = differing_settings(configs)
    options = [name for name in differing if "." in name]
    differing = [name for name in differing if "." not in name]
    letters = lettered(environments)
    heads = ["run", "state", "done", *differing, "validation score", "step (ms)", "run (s)"]
    heads += ["memory (MB)", "environment", *(["options"] if options else [])]
    failed = any(run.error for run in runs)
    heads += ["error"] if failed else []
    rows = []
    for run, config, about in zip(runs, configs, environments, strict=True):
        timing = run.results["timing"] if run.results else _so_far(run)
        rows.append(
            [
                Cell(run.path),
                Cell(run.state, ORDER.index(run.state), run.state),
                _epochs(run),
                *(_setting(config.get(name)) for name in differing),
                number(_score(run), ".4g"),
                number(timing.get("step_ms"), ".1f"),
                number(timing.get("total_s"), ".1f"),
                number(timing.get("peak_memory_mb"), ".0f"),
                Cell(letters.get(about, NONE)),
                *([_options(config, options)] if options else []),
                *([Cell(run.error or NONE, mark="wide")] if failed else []),
            ]
        )
    said = ["Of runs that are not finished: their best validation score so far."]
    return Table("runs-table", "All runs", heads, rows, notes=said)


def shared_table(runs: Sequence[FoundRun]) -> Table:
    """Makes the table of the settings that all runs have in common.

    Args:
        runs: The runs.

    Returns:
        The table.
    """
    configs = [flat(run.config) for run in runs]
    differing = set(differing_settings(configs))
    shared = {n: v for n, v in configs[0].items() if n not in differing} if configs else {}
    rows = [[Cell(name), _setting(value)] for name, value in shared.items()]
    return Table("settings-table", "Settings that all runs share", ["setting", "value"], rows)


def environment_table(environments: Sequence[str]) -> Table:
    """Makes the table of the machines and versions that the runs were made with.

    Args:
        environments: What `environment` gives, for each run.

    Returns:
        The table.
    """
    letters = lettered(environments)
    counts = Counter(environments)
    about = [json.loads(text) for text in letters]
    names = list(dict.fromkeys(name for one in about for name in one))
    rows = [
        [Cell(letter), number(counts[text], "d"), *(_setting(one.get(name)) for name in names)]
        for (text, letter), one in zip(letters.items(), about, strict=True)
    ]
    return Table("environments-table", "Environments", ["environment", "runs", *names], rows)


def problem_table(found: Findings) -> Table:
    """Makes the table of what was left out.

    Args:
        found: What was found.

    Returns:
        The table.
    """
    rows = [
        [Cell(problem.path), Cell(problem.reason, mark="wide")] for problem in found.problems[:500]
    ]
    more = len(found.problems) - len(rows)
    said = [f"{more} more are not listed."] if more else []
    return Table("problems-table", "Left out", ["path", "why"], rows, notes=said)


def environment(run: FoundRun) -> str:
    """Words the machine and versions of a finished run.

    Args:
        run: The run.

    Returns:
        JSON; ``""`` if it is not known.
    """
    about = (run.results or {}).get("environment") or {}
    return json.dumps(about, sort_keys=True) if about else ""


def lettered(environments: Iterable[str]) -> dict[str, str]:
    """Gives each environment a short name.

    Args:
        environments: The environments, as JSON.

    Returns:
        A, B .. by environment.
    """
    different = [text for text in dict.fromkeys(environments) if text]
    letters = string.ascii_uppercase
    return {
        text: letters[i] if i < len(letters) else f"E{i + 1}" for i, text in enumerate(different)
    }


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Unfolds a configuration: ``sharpness_options.mu`` and the like become settings."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_options") and isinstance(value, dict):
            settings |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            settings[name] = value
    first = {name: settings[name] for name in _FIRST if name in settings}
    return {**first, **settings}


def differing_settings(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The settings that are not the same in all runs."""
    names = dict.fromkeys(name for config in configs for name in config)
    return [
        name
        for name in names
        if len({json.dumps(config.get(name), default=str) for config in configs}) > 1
    ]


def _setting(value: Any) -> Cell:
    if value is None:
        return Cell(NONE)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell(plain(value if isinstance(value, str) else json.dumps(value), 200))
    return Cell(f"{value:.6g}" if isinstance(value, float) else plain(str(value), 40), value)


def _options(config: dict[str, Any], names: Sequence[str]) -> Cell:
    """The options of the method and preset that are not the same in all runs."""
    given = {name.partition(".")[2]: config[name] for name in names if name in config}
    text = ", ".join(f"{name} = {_setting(value).text}" for name, value in given.items())
    return Cell(plain(text) or NONE, mark="wide")


def _epochs(run: FoundRun) -> Cell:
    done = len(run.results["history"]) if run.results else len(run.log)
    total = run.config.get("epochs")
    return Cell(f"{done}/{total}" if total else str(done), done)


def _score(run: FoundRun) -> float | None:
    if run.results is not None:
        return float(reported(run.results)["score"])
    return max((record["score"] for record in run.log), default=None)


def _so_far(run: FoundRun) -> dict[str, Any]:
    """The timing of a run that is not finished: that of its last epoch, and the sum."""
    last = dict(run.log[-1]["timing"]) if run.log else {}
    epochs = [record["timing"].get("epoch_s") for record in run.log]
    total = sum(value for value in epochs if value is not None)
    return {**last, "total_s": total or None}
