"""What a comparison prints when it is over."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import benchmarks


def published_delta_m(results: Mapping[str, Any]) -> str | None:
    """Words Δm of a single run against published single-task numbers.

    Args:
        results: What ``results.json`` holds.

    Returns:
        A line; None if there are no such numbers for these metrics.
    """
    if benchmarks.published_baseline(results["config"]["benchmark"]) is None:
        return None
    from ..report import Entry, summarize

    summary = summarize([Entry(results["config"], False, results)])
    spread = summary.rows[0].delta_m
    if spread is None:
        return None
    return f"Δm against published single-task numbers ({summary.baseline}): {spread} %"


def show_report(console: Console, out: Path, *, published: bool) -> None:
    """Prints the tables of a comparison, and writes them and the figures.

    Args:
        console: Where to print.
        out: The comparison's directory.
        published: Whether to quote published results.
    """
    # Matplotlib is for the end only.
    from ..report import chosen_by_sweep, difference_table, read, rich_table, summarize, write

    summary = summarize(read(out), published=published, remarks=chosen_by_sweep(out))
    figures = write(summary, out)
    console.print(rich_table(summary, width=console.width))
    if differences := difference_table(summary):
        console.print(differences)
    if published and not summary.quoted:
        console.print(f"There are no published results of {summary.benchmark!r} here.")
    elif not published and benchmarks.published(summary.benchmark):
        console.print("The papers' results beside these: the same command with --published.")
    if figures:
        console.print("Plots:", *figures, sep="\n  ", highlight=False, soft_wrap=True)
    console.print(
        f"All of it on one page: samo report {shlex.quote(str(out))}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    tables = ", ".join(str(out / name) for name in ("table.csv", "table.md", "differences.csv"))
    console.print(f"Tables: {tables}", highlight=False, soft_wrap=True)
