"""Prints the results of runs and comparisons."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from .. import benchmarks
from ..records.directory import read_contrasts
from ..records.schema import of_weights, reported, weights_of
from ..training import Arm, Best
from ._console import say

# Matplotlib is loaded at the end of a command only: all imports of `report` are in functions.


def scores_tables(results: Mapping[str, Any]) -> list[RichTable]:
    """Creates the tables of a finished run, one for each kind of weights."""
    return [_scores(of_weights(results, name), name) for name in weights_of(results["config"])]


def _scores(results: Mapping[str, Any], weights: str) -> RichTable:
    """Creates a table with a row per metric from ``results.json``."""
    from ..report.tables import Cell, Table, cell, rich

    scores = reported(results)
    if "epochs" in scores:
        title = f"mean of epochs {scores['epochs'][0]} to {scores['epochs'][-1]}"
    else:
        title = f"epoch {scores['epoch']}, the best on validation data"
    if weights == "ema":
        title = f"averaged weights (decay {results['config']['ema']:g}), {title}"
    rows = []
    for task, metrics in results["metrics"].items():
        units = {name: about["unit"] for name, about in metrics.items()} | {"loss": ""}
        for name, unit in units.items():
            values = [scores[split][task][name] for split in ("validation", "test")]
            label = f"{name} ({unit})" if unit else name
            rows.append([Cell(task), Cell(label), *(cell(value, ".4g") for value in values)])
    return rich(Table(title, ["task", "metric", "validation", "test"], rows))


def published_delta_m(results: Mapping[str, Any]) -> str | None:
    """Formats Δm of a run against published single-task numbers; None if there are none."""
    if benchmarks.published_baseline(results["config"]["benchmark"]) is None:
        return None
    from ..report import Entry, summarize

    summary = summarize([Entry(results["config"], False, results)])
    if (spread := summary.rows[0].delta_m) is None:
        return None
    averaged = "".join(f"; with averaged weights: {row.delta_m} %" for row in summary.rows[1:])
    return f"Δm against published single-task numbers ({summary.baseline}): {spread} %{averaged}"


def show_results(console: Console, out: Path, *, published: bool) -> None:
    """Prints the tables of a comparison, and writes its tables and figures."""
    from ..report import chosen_by_sweep, difference_table, read, rich_table, summarize, write
    from ..report.tables import contrasts_table, rich

    remarks, named = chosen_by_sweep(out), read_contrasts(out)
    summary = summarize(read(out), published=published, remarks=remarks, named=named)
    figures = write(summary, out)
    console.print(rich_table(summary, width=console.width))
    if differences := difference_table(summary):
        console.print("", differences)
    if summary.contrasts:
        console.print("", rich(contrasts_table(summary), close=True))
    if published and not summary.quoted:
        say(console, f"No published results of {summary.benchmark!r} are available.")
    elif not published and benchmarks.published(summary.benchmark):
        say(console, "Add --published to show published results as well.")
    if figures:
        say(console, "Plots:", *figures)
    say(console, f"All results on one page: samo report {shlex.quote(str(out))}")
    tables = ", ".join(str(out / name) for name in ("table.csv", "table.md", "differences.csv"))
    say(console, f"Tables: {tables}")


def best_table(arms: Sequence[Arm], best: Sequence[Best]) -> RichTable:
    """Creates the table of the best trials of a search."""
    from ..report.tables import Cell, Table, cell, rich

    def value(one: Best, name: str) -> Cell:
        found = one.params.get(name)
        text = cell(found, ".4g" if isinstance(found, float) else "").text
        return Cell(f"{text} (edge)" if name in one.edges else text, found)

    chosen = list(dict.fromkeys(name for arm in arms for name in arm.space))
    rows = []
    for one in best:
        failed = f", {one.failed} failed" if one.failed else ""
        rows.append(
            [
                *map(Cell, one.names),
                Cell(f"{one.trials}{failed}", one.trials),
                cell(one.score, ".4g"),
                *(value(one, name) for name in chosen),
            ]
        )
    heads = ["method", "sharpness", "trials", "score"]
    heads += [name.removeprefix("sharpness_options.") for name in chosen]
    return rich(Table("best trials, by their score on validation data", heads, rows))
