"""The sections of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from matplotlib.figure import Figure

from ...records.scan import Findings, FoundRun
from ...records.schema import preset_at
from ..figures import conflict_map, course, delta_m, intervals, learning_curves, rho_grid, run_costs
from ..summary import Column, Row, Summary
from ..tables import (
    Cell,
    Table,
    contrasts_table,
    count_states,
    differences_table,
    results_table,
    timings_table,
)
from ._analyses import analyses
from ._blocks import Block, Section, Words, picture
from ._groups import Group

_MOST_LISTED = 30
_CURVES = (
    "Learning curves: the first metric of each task by epoch, thin on training data and bold on "
    "validation data. Lines are means over the seeds, bands reach from the lowest seed to the "
    "highest. The axis shows the range of the second half of the epochs."
)
_MARKS = (
    "Δm and the average of the tasks: means over the seeds with one standard deviation; small dots "
    "are the single seeds."
)
_INTERVALS = (
    "Differences to plain training with the same method, paired by seed, with 95 % confidence "
    "intervals. Large marks: over all methods."
)
_RHO = "The validation score by ρ, to show its influence and whether the grid has the best."
_COURSE = (
    "Training by epoch. Conflicts: the share of task pairs whose gradients point against each "
    "other, mean over the steps. Sharpness: the loss at the perturbed weights minus the natural "
    "one, mean over the tasks. Balance: the smallest norm of a task's gradient over the largest. "
    "Weight: a task's share in the weights of the method."
)
_MAP = "The share of conflicting task pairs by epoch, for each method and preset."
_LEVEL = (
    " Of rows @representation, conflicts and norms are those of gradients with respect to the "
    "representation; of the others, with respect to the parameters."
)
_COST = "The median time of a step, mean over the seeds, and the peak memory if it was recorded."


def comparison(group: Group, found: Findings, prefix: str, *, published: bool) -> Iterator[Section]:
    """Creates the sections of a group, with ids that start with a prefix."""
    summary = group.summarized(published=published)

    def drawn(name: str, draw: Callable[[Summary], Figure | None], caption: str) -> list[Block]:
        return picture(partial(draw, summary), f"{prefix}-{name}", caption, f"The figure {name!r}")

    opening = list(_state(group, alone=len(group.runs) == len(found.runs)))
    if summary.columns:
        opening.append(replace(_results(group, summary), id=f"{prefix}-results"))
    if published and not summary.quoted:
        opening.append(Words([f"No published results of {group.benchmark} are available."]))
    yield Section(f"{prefix}-results-section", group.title, opening)
    changes, training, costs = list[Block](), list[Block](), list[Block]()
    if summary.scores(summary.differences):
        changes.append(replace(_differences(summary), id=f"{prefix}-changes"))
        changes += drawn("intervals", intervals, _INTERVALS)
    if summary.contrasts:
        named = contrasts_table(summary)
        changes.append(replace(named, title="Contrasts", id=f"{prefix}-contrasts"))
    if any(row.runs and not row.baseline for row in summary.rows):
        if summary.scores(summary.rows):
            changes += drawn("delta-m", delta_m, _MARKS)
        if any(len(by_rho) > 1 for by_rho in summary.grid.values()):
            changes += drawn("rho", rho_grid, _RHO)
        training += drawn("curves", learning_curves, _CURVES)
        level = _LEVEL if summary.at_representation else ""
        training += drawn("course", course, _COURSE + level)
        training += drawn("conflicts", conflict_map, _MAP + level)
    if any(row.runs for row in summary.rows):
        costs += drawn("cost", run_costs, _COST)
        costs.append(replace(timings_table(summary), id=f"{prefix}-costs"))
    parts = {
        "changes": ("Differences to plain training", changes),
        "training": ("Training", training),
        "progress": ("Unfinished runs", _progress(group, prefix)),
        "analysis": ("Analysis", analyses(group, found, prefix)),
        "cost": ("Time and memory", costs),
    }
    for name, (title, blocks) in parts.items():
        if blocks:
            yield Section(f"{prefix}-{name}-section", title, blocks, level=3)


def _state(group: Group, *, alone: bool) -> Iterator[Block]:
    """Reports the states of the runs, and which are missing."""
    n = len(group.runs)
    if not alone:  # the page begins with that
        line = f"{n} run{'s' * (n != 1)}: {count_states(group.runs)}."
        finished = all(run.state == "finished" for run in group.runs)
        yield Words([line], "" if finished else "warning")
    lines = []
    for state in ("failed", "unreadable"):
        lines += [f"{r.path}: {state}. {r.error}" for r in group.runs if r.state == state]
    lines += [f"{run.path}: not in the table, as {reason}." for run, reason in group.left_out]
    if lines:
        more = len(lines) - _MOST_LISTED
        tail = [f"{more} more are in the table of all runs."] if more > 0 else []
        yield Words([*lines[:_MOST_LISTED], *tail], "warning")


def _results(group: Group, summary: Summary) -> Table:
    """The table of results, with the number of runs of each arm."""
    table = results_table(summary)
    counts = [_count(group, row) for row in summary.rows]
    notes = [note for note in table.notes if not note.startswith("Incomplete:")]
    return replace(
        table,
        title=f"Test results of {group.title}",
        heads=[*table.heads[:2], "runs", *table.heads[2:]],
        rows=[[*r[:2], n, *r[2:]] for r, n in zip(table.rows, counts, strict=True)],
        quoted=[
            [label, Cell(f"published {source.text}"), Cell(), *rest]
            for label, source, *rest in table.quoted
        ],
        notes=[
            *notes,
            "Runs: the number of finished runs, of those that were planned at all ρ.",
            "Bold: the best of a column, without single-task training.",
        ],
    )


def _count(group: Group, row: Row) -> Cell:
    """The number of finished runs of an arm."""
    arm = [
        run
        for run in group.runs
        if row.weights in run.weights
        and run.baseline == row.baseline
        and (run.baseline or _names(run, row.weights) == row.names)
    ]
    done = sum(run.state == "finished" for run in arm)
    return Cell(f"{done}/{len(arm)}", done, "" if done == len(arm) else "missing")


def _names(run: FoundRun, weights: str) -> tuple[str, str]:
    config = run.config
    return config["method"], preset_at(config["sharpness"], config["level"], weights)


def _differences(summary: Summary) -> Table:
    table = differences_table(summary)
    rows = []
    for (preset, methods, *rest), d in zip(table.rows, summary.differences, strict=True):
        several = f"all {len(d.methods)}: " if len(d.methods) > 1 else ""
        rows.append([preset, Cell(several + methods.text), *rest])
    note = "Bold: the interval excludes zero. With this many intervals, some do so by chance."
    title = "Paired differences to plain training"
    return replace(table, title=title, rows=rows, notes=[*table.notes, note])


def _progress(group: Group, prefix: str) -> list[Block]:
    """The curves of unfinished runs, a line per run."""
    going = [run for run in group.runs if run.results is None and run.log]
    shown = [run for run in going if _tasks(run) == _tasks(going[0])][:_MOST_LISTED]
    if not shown:
        return []
    columns = tuple(
        Column(task, next(iter(scores)), "", higher_is_better=True)
        for task, scores in shown[0].log[0]["validation"].items()
        if scores
    )
    rows = []
    for run in shown:
        method, logged = "STL" if run.baseline else run.config["method"], {"history": run.log}
        preset, level = run.config["sharpness"], run.config["level"]
        rows.append(Row(method, preset, level, "raw", None, (logged,), 1, {}))
    summary = Summary(group.benchmark, 1, columns, tuple(rows), 0, 0.0, {})
    caption = f"The curves of {len(shown)} of {len(going)} unfinished runs so far, a line per run."
    draw = partial(learning_curves, summary)
    return picture(draw, f"{prefix}-progress", caption, "The figure 'progress'")


def _tasks(run: FoundRun) -> list[tuple[str, tuple[str, ...]]]:
    return [(task, tuple(scores)) for task, scores in run.log[-1]["validation"].items()]
