"""The sections of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from ...records.foreign import plain
from ...records.scan import Findings, FoundRun
from .._plots import delta_m, learning_curves, rho_grid
from .._rows import Column, Row, Summary
from ._analyses import analyses
from ._blocks import Block, Picture, Section, Words
from ._figures import conflict_map, cost, course, intervals
from ._groups import Group
from ._result_tables import change_table, cost_table, summary_table
from ._run_tables import counted
from ._svg import inline

Draw = Callable[[Summary], Figure | None]

_MOST_LISTED = 30
_CURVES = (
    "Learning curves: the first metric of each task by epoch, thin on training data and bold on "
    "validation data. Lines are means over the seeds, bands reach from the lowest seed to the "
    "highest. The axis shows what the second half of the epochs spans."
)
_MARKS = (
    "Δm and the average of the tasks: means over the seeds with one standard deviation; small dots "
    "are the single seeds."
)
_INTERVALS = (
    "What each preset changes against plain training with the same method, seed by seed, with 95 % "
    "confidence intervals. Large marks: over all methods."
)
_RHO = "The validation score by ρ: whether the grid holds the best, and how much it matters."
_COURSE = (
    "Training by epoch. Conflicts: the share of task pairs whose gradients point against each "
    "other, mean over the steps. Sharpness: the loss at the perturbed weights minus the natural "
    "one, mean over the tasks. Balance: the smallest norm of a task's gradient over the largest. "
    "Weight: a task's share in the weights of the method."
)
_MAP = "The share of conflicting task pairs by epoch, for each method and preset."
_COST = "The median time of a step, mean over the seeds, and the peak memory where it was recorded."


def comparison(group: Group, found: Findings, prefix: str, *, published: bool) -> Iterator[Section]:
    """Shows the runs of a group.

    Args:
        group: The runs.
        found: Where what is left out is named.
        prefix: What ids begin with.
        published: Whether to quote published results.

    Yields:
        The sections.
    """
    summary = group.summed_up(published=published).summary
    assert summary is not None
    alone = len(group.runs) == len(found.runs)
    opening = Section(f"{prefix}-results-section", group.title, list(_state(group, alone=alone)))
    if summary.columns:
        opening.blocks.append(summary_table(group, summary, prefix))
    if published and not summary.quoted:
        opening.blocks.append(Words([f"There are no published results of {group.benchmark} here."]))
    yield opening
    trained = any(row.runs and row.method != "stl" for row in summary.rows)
    changes: list[Block] = []
    if summary.differences and any(d.average or d.delta_m for d in summary.differences):
        changes.append(change_table(summary, prefix))
        changes += _pictures(summary, prefix, ("intervals", intervals, _INTERVALS))
    if trained:
        drawn = any(row.delta_m or row.average for row in summary.rows)
        marks = [("delta-m", delta_m, _MARKS)] if drawn else []
        if any(len(by_rho) > 1 for by_rho in summary.grid.values()):
            marks.append(("rho", rho_grid, _RHO))
        changes += _pictures(summary, prefix, *marks)
    yield from _section(f"{prefix}-changes-section", "What sharpness changes", changes)
    if trained:
        curves = ("curves", learning_curves, _CURVES)
        blocks = _pictures(summary, prefix, curves, ("course", course, _COURSE))
        blocks += _pictures(summary, prefix, ("conflicts", conflict_map, _MAP))
        yield from _section(f"{prefix}-training-section", "Training", blocks)
    yield from _section(f"{prefix}-progress-section", "Unfinished runs", _progress(group, prefix))
    yield from _section(f"{prefix}-analysis-section", "Analysis", analyses(group, found, prefix))
    if any(row.runs for row in summary.rows):
        blocks = [*_pictures(summary, prefix, ("cost", cost, _COST)), cost_table(summary, prefix)]
        yield from _section(f"{prefix}-cost-section", "Time and memory", blocks)


def _section(name: str, title: str, blocks: list[Block]) -> Iterator[Section]:
    if blocks:
        yield Section(name, title, blocks, level=3)


def _state(group: Group, *, alone: bool) -> Iterator[Block]:
    """Says which runs there are, and which there are not."""
    n = len(group.runs)
    if not alone:  # the page begins with that
        line = f"{n} run{'s' * (n != 1)}: {counted(group.runs)}."
        yield Words([line], "" if group.states["finished"] == n else "warning")
    lines = []
    for state in ("failed", "unreadable"):
        lines += [f"{r.path}: {state}. {r.error}" for r in group.runs if r.state == state]
    lines += [f"{run.path}: not in the table, as {reason}." for run, reason in group.left_out]
    if lines:
        more = len(lines) - _MOST_LISTED
        tail = [f"{more} more are in the table of all runs."] if more > 0 else []
        yield Words([*lines[:_MOST_LISTED], *tail], "warning")


def _pictures(summary: Summary, prefix: str, *figures: tuple[str, Draw, str]) -> list[Block]:
    """Draws figures; one that cannot be drawn of what was found says so."""
    blocks: list[Block] = []
    for name, draw, caption in figures:
        try:
            figure = draw(summary)
            if figure is not None:
                svg = inline(figure, f"{prefix}-{name}-", caption)
                blocks.append(Picture(svg, caption))
        except Exception as error:  # somebody else's data: the rest of the page is shown
            reason = f"{type(error).__name__}: {error}"
            line = plain(f"The figure {name!r} cannot be drawn ({reason}).")
            blocks.append(Words([line], "warning"))
    return blocks


def _progress(group: Group, prefix: str) -> list[Block]:
    """The curves of runs that are not finished, a line a run."""
    going = [run for run in group.runs if run.results is None and run.log]
    shown = [run for run in going if _tasks(run) == _tasks(going[0])][:_MOST_LISTED]
    if not shown:
        return []
    columns = tuple(
        Column(task, next(iter(scores)), "", higher_is_better=True)
        for task, scores in shown[0].log[0]["validation"].items()
        if scores
    )
    rows = tuple(
        Row(
            "STL" if run.baseline else run.config["method"],
            run.config["sharpness"],
            None,
            runs=({"history": run.log},),
            unfinished=1,
            metrics={},
        )
        for run in shown
    )
    summary = Summary(group.benchmark, 1, columns, rows, 0, {})
    caption = f"The curves of {len(shown)} of {len(going)} unfinished runs so far, a line a run."
    return _pictures(summary, prefix, ("progress", learning_curves, caption))


def _tasks(run: FoundRun) -> list[tuple[str, tuple[str, ...]]]:
    return [(task, tuple(scores)) for task, scores in run.log[-1]["validation"].items()]
