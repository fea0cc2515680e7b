"""From the runs of a comparison to the rows of its table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..benchmarks import published_baseline
from ..metrics import delta_m
from ..records import read_json
from ..records.directory import RunDirectory, read_plan
from ..records.schema import reported
from ._differences import differences
from ._quoted import with_published
from ._rows import Column, Entry, Key, Row, Spread, Summary, first_metrics

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
        Entry(run.config.model_dump(), run.baseline, RunDirectory(out / run.path).results())
        for run in read_plan(out)
    ]


def chosen_by_sweep(out: Path | str) -> tuple[str, ...]:
    """Words how a sweep chose the settings of the runs that it compares.

    Args:
        out: Its directory.

    Returns:
        A sentence; none where there was no sweep.
    """
    file = Path(out) / "best.json"
    return (sweep_words(read_json(file)),) if file.exists() else ()


def sweep_words(best: Mapping[str, Any]) -> str:
    """Words the settings that a sweep chose.

    Args:
        best: What ``best.json`` holds.

    Returns:
        A sentence.
    """
    arms = []
    for arm, chosen in best.items():
        params = ", ".join(
            f"{name.removeprefix('sharpness_options.')} = {_short(value)}"
            for name, value in chosen["params"].items()
        )
        arms.append(f"{arm} ({chosen['trials']} trials) {params or 'nothing to choose'}")
    return f"Chosen on validation data: {'; '.join(arms)}."


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def summarize(
    entries: Sequence[Entry], *, published: bool = False, remarks: Sequence[str] = ()
) -> Summary:
    """Sums a comparison up.

    For each method and preset, ρ is chosen by the mean over the seeds of the score on *validation*
    data: over the seeds that were planned at every ρ, so that more seeds at one of them change
    nothing. A ρ at which one of these runs is missing is chosen only if there is none where all are
    there. The test scores of other ρ are not looked at. Where there are no single-task baselines,
    Δm is against published ones, if there are some, over the metrics that were published.

    Args:
        entries: The runs.
        published: Whether to quote published results of the benchmark.
        remarks: What else should be said of the numbers.

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
    source = ""
    if not baselines:
        source, reference = _published(entries[0].config["benchmark"], columns)
    rows += [_row(arm, by_rho, columns, reference) for arm, by_rho in arms.items()]
    rows = _with_ratios(_with_ranks(rows, columns))
    summary = Summary(
        benchmark=entries[0].config["benchmark"],
        seeds=len({entry.config["seed"] for entry in entries}),
        columns=columns,
        rows=tuple(rows),
        average_last=entries[0].config.get("average_last", 0),
        grid={
            arm: _scores(_compared(by_rho)) for arm, by_rho in arms.items() if None not in by_rho
        },
        differences=differences(rows),
        baseline=source,
        remarks=tuple(remarks),
    )
    return with_published(summary) if published else summary


def _published(benchmark: str, columns: Sequence[Column]) -> tuple[str, dict[Key, float]]:
    """Published single-task numbers and their source; none if a metric is missing here."""
    found = published_baseline(benchmark)
    if found is None:
        return "", {}
    table, values = found
    units = {column.key: column.unit for column in columns}
    if any(units.get((c.task, c.metric)) != c.unit for c in table.columns if c.task):
        return "", {}
    return table.source, values


def _columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """The metrics of all tasks that a finished run has."""
    columns: dict[Key, Column] = {}
    for entry in sorted(entries, key=lambda e: e.baseline):
        for task, metrics in (entry.results or {}).get("metrics", {}).items():
            for name, about in metrics.items():
                column = Column(task, name, about["unit"], about["higher_is_better"])
                columns.setdefault(column.key, column)
    return tuple(columns.values())


def _compared(by_rho: Mapping[float | None, Sequence[Entry]]) -> dict[float | None, list[Entry]]:
    """The runs of the seeds that were planned at every ρ; all runs where there is no such seed."""
    planned = [{entry.config["seed"] for entry in runs} for runs in by_rho.values()]
    seeds = set.intersection(*planned) or set.union(*planned)
    return {rho: [e for e in runs if e.config["seed"] in seeds] for rho, runs in by_rho.items()}


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
    compared = _compared(by_rho)
    scores = _scores(compared)
    complete = {r: s for r, s in scores.items() if all(e.results for e in compared[r])}
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
    up = {c.key: c.higher_is_better for c in columns if c.key in reference}
    against = [{key: v[key] for key in up} for v in values if up and all(reference.values())]
    return Row(
        *arm,
        rho=rho,
        runs=runs,
        unfinished=sum(e.results is None for runs in by_rho.values() for e in runs),
        metrics={c.key: Spread(tuple(v[c.key] for v in values)) for c in columns if values},
        average=_average(values, columns),
        delta_m=Spread(tuple(delta_m(v, reference, up) for v in against)) if against else None,
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
    first = first_metrics(columns)
    if not values or len({(c.metric, c.unit) for c in first}) > 1:
        return None
    return Spread(tuple(math.fsum(v[c.key] for c in first) / len(first) for v in values))


def _with_ranks(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Ranks the arms by each metric; those of single-task training take no part."""
    from scipy.stats import rankdata

    arms = [row for row in rows if row.method != "stl" and row.metrics]
    if len(arms) < 2:
        return list(rows)
    ranks = [
        rankdata([row.metrics[c.key].mean * (-1) ** c.higher_is_better for row in arms])
        for c in columns
    ]
    mean = {
        (row.method, row.sharpness): math.fsum(rank[i] for rank in ranks) / len(ranks)
        for i, row in enumerate(arms)
    }
    return [replace(row, mean_rank=mean.get((row.method, row.sharpness))) for row in rows]


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    plain = {row.method: row.step_ms for row in rows if row.sharpness == "erm"}

    def ratio(row: Row) -> float | None:
        base = plain.get(row.method)
        return None if row.step_ms is None or not base else row.step_ms / base

    return [replace(row, step_ratio=ratio(row)) for row in rows]
