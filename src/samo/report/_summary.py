"""From the runs of a comparison to the rows of its table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..metrics import delta_m
from ..training import reported
from ..training._files import RunDirectory, read_json
from ._rows import Column, Entry, Key, Row, Spread, Summary

Arm = tuple[str, str]
"""A method and a preset."""


def read(out: Path | str) -> list[Entry]:
    """Reads the runs of a comparison.

    Args:
        out: Its directory.

    Returns:
        The runs, finished or not.

    Raises:
        RunError: If there is no comparison, or a file of it cannot be read.
    """
    out = Path(out)
    return [
        Entry(run["config"], run["baseline"], RunDirectory(out / run["path"]).results())
        for run in read_json(out / "compare.json")
    ]


def summarize(entries: Sequence[Entry]) -> Summary:
    """Sums a comparison up.

    For each method and preset, ρ is chosen by the mean over the seeds of the score on *validation*
    data; a ρ at which a run is missing only if there is none where all are there. The test scores
    of other ρ are not looked at.

    Args:
        entries: The runs.

    Returns:
        The summary.
    """
    baselines = [entry for entry in entries if entry.baseline]
    arms: defaultdict[Arm, dict[float | None, list[Entry]]] = defaultdict(dict)
    for entry in entries:
        if not entry.baseline:
            by_rho = arms[entry.config["method"], entry.config["sharpness"]]
            by_rho.setdefault(entry.config["rho"], []).append(entry)
    columns = _columns(entries)
    rows = [_baseline_row(baselines, columns)] if baselines else []
    reference = {key: spread.mean for row in rows for key, spread in row.metrics.items()}
    rows += [_row(arm, by_rho, columns, reference) for arm, by_rho in arms.items()]
    return Summary(
        benchmark=entries[0].config["benchmark"],
        seeds=len({entry.config["seed"] for entry in entries}),
        columns=columns,
        rows=_with_ratios(rows),
        average_last=entries[0].config.get("average_last", 0),
        grid={arm: _scores(by_rho) for arm, by_rho in arms.items() if None not in by_rho},
    )


def _columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """The metrics of all tasks that a finished run has."""
    columns: dict[Key, Column] = {}
    for entry in sorted(entries, key=lambda e: e.baseline):
        for task, metrics in (entry.results or {}).get("metrics", {}).items():
            for name, about in metrics.items():
                column = Column(task, name, about["unit"], about["higher_is_better"])
                columns.setdefault(column.key, column)
    return tuple(columns.values())


def _scores(by_rho: Mapping[float | None, Sequence[Entry]]) -> dict[float, Spread]:
    """The validation scores of an arm, by ρ and seed."""
    finished = {rho: [e.results for e in runs if e.results] for rho, runs in by_rho.items()}
    return {
        rho: Spread(tuple(reported(results)["score"] for results in runs))
        for rho, runs in finished.items()
        if rho is not None and runs
    }


def chosen(by_rho: Mapping[float | None, Sequence[Entry]]) -> float | None:
    """Chooses ρ by validation data; the smaller of two that are equal.

    Args:
        by_rho: The runs of an arm.

    Returns:
        The ρ; None for an arm that has none, or of which no run is finished.
    """
    scores = _scores(by_rho)
    complete = {r: s for r, s in scores.items() if all(e.results for e in by_rho[r])}
    candidates = complete or scores
    return min(candidates, key=lambda rho: (-candidates[rho].mean, rho), default=None)


def _row(
    arm: Arm,
    by_rho: Mapping[float | None, Sequence[Entry]],
    columns: Sequence[Column],
    reference: Mapping[Key, float],
) -> Row:
    rho = chosen(by_rho)
    runs = tuple(e.results for e in by_rho.get(rho, ()) if e.results)
    tests = [reported(run)["test"] for run in runs]
    values = [{c.key: test[c.task][c.metric] for c in columns} for test in tests]
    up = {c.key: c.higher_is_better for c in columns}
    comparable = columns and reference.keys() == up.keys() and all(reference.values())
    return Row(
        *arm,
        rho=rho,
        runs=runs,
        unfinished=sum(e.results is None for runs in by_rho.values() for e in runs),
        metrics={key: Spread(tuple(v[key] for v in values)) for key in up if values},
        average=_average(values, columns),
        delta_m=Spread(tuple(delta_m(v, reference, up) for v in values))
        if values and comparable
        else None,
    )


def _baseline_row(baselines: Sequence[Entry], columns: Sequence[Column]) -> Row:
    """The row of single-task training, where each task's figures are from runs of its own."""
    runs = tuple(entry.results for entry in baselines if entry.results)
    by_seed: defaultdict[int, dict[Key, float]] = defaultdict(dict)
    for run in runs:
        for task, scores in reported(run)["test"].items():
            for name in run["metrics"][task]:
                by_seed[run["config"]["seed"]][task, name] = scores[name]
    whole = [values for values in by_seed.values() if len(values) == len(columns)]
    return Row(
        method="stl",
        sharpness="erm",
        rho=None,
        runs=runs,
        unfinished=len(baselines) - len(runs),
        metrics={c.key: Spread(tuple(v[c.key] for v in whole)) for c in columns if whole},
        average=_average(whole, columns),
    )


def _average(values: Sequence[Mapping[Key, float]], columns: Sequence[Column]) -> Spread | None:
    """The mean over the tasks of each one's first metric, if that is the same for all."""
    first: dict[str, Column] = {}
    for column in columns:
        first.setdefault(column.task, column)
    if not values or len({(c.metric, c.unit) for c in first.values()}) > 1:
        return None
    return Spread(tuple(math.fsum(v[c.key] for c in first.values()) / len(first) for v in values))


def _with_ratios(rows: Sequence[Row]) -> tuple[Row, ...]:
    plain = {row.method: row.step_ms for row in rows if row.sharpness == "erm"}

    def ratio(row: Row) -> float | None:
        base = plain.get(row.method)
        return None if row.step_ms is None or not base else row.step_ms / base

    return tuple(replace(row, step_ratio=ratio(row)) for row in rows)
