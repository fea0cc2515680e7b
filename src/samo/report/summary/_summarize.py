"""Summarises the runs of a comparison."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...benchmarks import published_baseline
from ...metrics import delta_m
from ...records import read_json
from ...records.directory import RunDirectory, read_plan
from ...records.schema import preset_at, reported
from ._differences import contrasts, differences, plain_rows
from ._published import with_published
from ._rows import Column, Entry, Key, Row, Spread, Summary, first_metrics

Arm = tuple[str, str, str, str]
"""A method, a preset, a level and the weights."""


def read(out: Path | str) -> list[Entry]:
    """Reads the runs of a comparison.

    Args:
        out: The directory of the comparison.

    Returns:
        The runs, finished or not.

    Raises:
        RunError: If there is no comparison, or one of its files cannot be read.
    """
    out = Path(out)
    return [
        Entry(
            run.config.model_dump(),
            run.baseline,
            RunDirectory(out / run.path).results(),
            run.weights,
        )
        for run in read_plan(out)
    ]


def chosen_by_sweep(out: Path | str) -> tuple[str, ...]:
    """Formats the settings that a sweep chose, in a sentence; empty if there was no sweep."""
    file = Path(out) / "best.json"
    return (format_choices(read_json(file)),) if file.exists() else ()


def format_choices(best: Mapping[str, Any]) -> str:
    """Formats the content of ``best.json`` as a sentence."""
    arms = []
    for arm, chosen in best.items():
        params = ", ".join(
            f"{_short_name(name)} = {_short(value)}" for name, value in chosen["params"].items()
        )
        arms.append(f"{arm} ({chosen['trials']} trials) {params or 'no settings'}")
    text = f"Chosen on validation data, with other seeds: {'; '.join(arms)}."
    at_edge = {arm: found for arm, chosen in best.items() if (found := chosen.get("edges"))}
    if at_edge:
        names = "; ".join(f"{_short_name(', '.join(found))} of {a}" for a, found in at_edge.items())
        text += f" At the edge of the values tried, so that a better one may lie beyond: {names}."
    return text


def _short_name(text: str) -> str:
    return text.replace("sharpness_options.", "")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def summarize(
    entries: Sequence[Entry],
    *,
    published: bool = False,
    remarks: Sequence[str] = (),
    named: Iterable[str] = (),
) -> Summary:
    """Summarises a comparison.

    Raw and averaged weights of the same runs are arms of their own. For each arm (a method and a
    preset at a level, with its weights), ρ is chosen by the score on *validation* data, mean over
    the seeds that were planned at every ρ: further seeds at one ρ do not change the choice. A ρ
    with a missing run is chosen only if no ρ is complete. Test scores at other ρ are ignored.
    Without single-task baselines, Δm is against published ones if there are any, over the published
    metrics.

    Args:
        entries: The runs.
        published: Whether to quote published results of the benchmark.
        remarks: Further remarks on the numbers.
        named: The contrasts, such as ``"erm+ema:gsam"``.

    Returns:
        The summary.

    Raises:
        RunError: If a contrast is malformed.
    """
    divided = [pair for entry in entries for pair in entry.by_weights().items()]
    baselines: defaultdict[str, list[Entry]] = defaultdict(list)
    arms: defaultdict[Arm, dict[float | None, list[Entry]]] = defaultdict(dict)
    for weights, entry in divided:
        if entry.baseline:
            baselines[weights].append(entry)
        else:
            method, preset, level = map(entry.config.__getitem__, ("method", "sharpness", "level"))
            by_rho = arms[method, preset, level, weights]
            by_rho.setdefault(entry.config["rho"], []).append(entry)
    columns = _columns(entries)
    rows = [_baseline_row(weights, runs, columns) for weights, runs in baselines.items()]
    reference = {key: spread.mean for row in rows[:1] for key, spread in row.metrics.items()}
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
        ema=max(entry.config["ema"] for entry in entries),
        grid={
            (method, preset_at(*arm)): _scores(_compared(by_rho))
            for (method, *arm), by_rho in arms.items()
            if None not in by_rho
        },
        differences=differences(rows),
        contrasts=contrasts(rows, named),
        baseline=source,
        remarks=tuple(remarks),
    )
    return with_published(summary) if published else summary


def _published(benchmark: str, columns: Sequence[Column]) -> tuple[str, dict[Key, float]]:
    """The source and values of published single-task results; none if a metric is missing."""
    found = published_baseline(benchmark)
    if found is None:
        return "", {}
    table, values = found
    units = {column.key: column.unit for column in columns}
    if any(units.get((c.task, c.metric)) != c.unit for c in table.columns if c.task):
        return "", {}
    return table.source, values


def _columns(entries: Sequence[Entry]) -> tuple[Column, ...]:
    """The metrics of all tasks, from the finished runs."""
    columns: dict[Key, Column] = {}
    for entry in sorted(entries, key=lambda e: e.baseline):
        for task, metrics in (entry.results or {}).get("metrics", {}).items():
            for name, about in metrics.items():
                column = Column(task, name, about["unit"], about["higher_is_better"])
                columns.setdefault(column.key, column)
    return tuple(columns.values())


def _compared(by_rho: Mapping[float | None, Sequence[Entry]]) -> dict[float | None, list[Entry]]:
    """The runs of the seeds that were planned at every ρ; all runs if there is no such seed."""
    planned = [{entry.config["seed"] for entry in runs} for runs in by_rho.values()]
    seeds = set.intersection(*planned) or set.union(*planned)
    return {rho: [e for e in runs if e.config["seed"] in seeds] for rho, runs in by_rho.items()}


def _scores(by_rho: Mapping[float | None, Sequence[Entry]]) -> dict[float, Spread]:
    """The validation scores of an arm by ρ."""
    finished = {rho: [e.results for e in runs if e.results] for rho, runs in by_rho.items()}
    return {
        rho: Spread(tuple(reported(results)["score"] for results in runs))
        for rho, runs in finished.items()
        if rho is not None and runs
    }


def _chosen(by_rho: Mapping[float | None, Sequence[Entry]]) -> float | None:
    """Chooses the ρ of an arm on validation data, the smaller of two equals; None without any."""
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
    rho = _chosen(by_rho)
    runs = tuple(e.results for e in by_rho.get(rho, ()) if e.results)
    tests = [reported(run)["test"] for run in runs]
    values = [{c.key: test[c.task][c.metric] for c in columns} for test in tests]
    up = {c.key: c.higher_is_better for c in columns if c.key in reference}
    against = [{key: v[key] for key in up} for v in values if up and all(reference.values())]
    change = Spread(tuple(delta_m(v, reference, up) for v in against)) if against else None
    unfinished = sum(e.results is None for runs in by_rho.values() for e in runs)
    scores = _metrics(values, columns)
    return Row(*arm, rho, runs, unfinished, scores, _average(values, columns), delta_m=change)


def _baseline_row(weights: str, baselines: Sequence[Entry], columns: Sequence[Column]) -> Row:
    """The row of single-task training, with the scores of each task from its own runs."""
    runs = tuple(entry.results for entry in baselines if entry.results)
    by_seed: defaultdict[int, dict[Key, float]] = defaultdict(dict)
    for run in runs:
        for task, scores in reported(run)["test"].items():
            for name in run["metrics"][task]:
                by_seed[run["config"]["seed"]][task, name] = scores[name]
    whole = [values for values in by_seed.values() if len(values) == len(columns)]
    unfinished, metrics = len(baselines) - len(runs), _metrics(whole, columns)
    average = _average(whole, columns)
    return Row("stl", "erm", "parameter", weights, None, runs, unfinished, metrics, average)


def _metrics(values: Sequence[Mapping[Key, float]], columns: Sequence[Column]) -> dict[Key, Spread]:
    return {c.key: Spread(tuple(v[c.key] for v in values)) for c in columns if values}


def _average(values: Sequence[Mapping[Key, float]], columns: Sequence[Column]) -> Spread | None:
    """The mean of the tasks' first metrics, if these are the same metric."""
    first = first_metrics(columns)
    if not values or len({(c.metric, c.unit) for c in first}) > 1:
        return None
    return Spread(tuple(math.fsum(v[c.key] for c in first) / len(first) for v in values))


def _with_ranks(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Ranks the arms by each metric, without single-task training."""
    from scipy.stats import rankdata

    arms = [row for row in rows if not row.baseline and row.metrics]
    if len(arms) < 2:
        return list(rows)
    ranks = [
        rankdata([row.metrics[c.key].mean * (-1) ** c.higher_is_better for row in arms])
        for c in columns
    ]
    mean = {
        row.names: math.fsum(rank[i] for rank in ranks) / len(ranks) for i, row in enumerate(arms)
    }
    return [replace(row, mean_rank=mean.get(row.names)) for row in rows]


def _with_ratios(rows: Sequence[Row]) -> list[Row]:
    plain = {method: row.step_ms for method, row in plain_rows(rows).items()}

    def ratio(row: Row) -> float | None:
        base = plain.get(row.method)
        return None if row.step_ms is None or not base else row.step_ms / base

    return [replace(row, step_ratio=ratio(row)) for row in rows]
