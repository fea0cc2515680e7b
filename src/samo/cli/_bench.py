"""``samo bench``: measures the cost of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cost import CASES, PRESETS, Conditions, chosen, conditions, measure, read_results
from ..training import LEVELS, RunError
from ._console import reporting_errors, say
from ._parse import names
from ._run_options import Levels
from ._views import BenchView

_BOTH = ",".join(LEVELS)


def bench_(
    cases: Annotated[
        str, typer.Option(help=f"Cases, separated by commas: {', '.join(CASES)}.")
    ] = "mlp,lenet",
    presets: Annotated[
        str | None,
        typer.Option(
            help=f"Steps, separated by commas: {', '.join(PRESETS)}. Default: all but the "
            "estimators of SAMO other than SPSA."
        ),
    ] = None,
    level: Levels = _BOTH,
    method: Annotated[str, typer.Option(help="Aggregation method.")] = "fairgrad",
    size: Annotated[
        str | None,
        typer.Option(help="small, standard (default on a CPU) or full (default on a GPU)."),
    ] = None,
    tasks: Annotated[
        int | None, typer.Option(help="Number of tasks. Default: that of the case.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Batch size. Default: that of the case.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Timings per step; 0 for passes and memory only."),
    ] = None,
    bare: Annotated[
        bool, typer.Option("--bare", help="Also time the passes of each step in a bare loop.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Number of PyTorch's threads on the CPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("runs/bench"),
) -> None:
    """Measure the cost of a step, relative to plain backprop.

    Measures time and memory of sum(losses).backward(), of every preset at both levels, and of
    TorchJD's steps. Measurements are kept: repeat an interrupted command to resume, or add steps or
    presets.
    """
    with reporting_errors() as console:
        subjects = chosen(names(presets or ""), method, names(level))
        settings = _settings(
            names(cases),
            size=size,
            tasks=tasks,
            batch=batch,
            method=method,
            device=device,
            threads=threads,
        )
        # Matplotlib is loaded before anything is timed.
        from ..report import cost_table, write_costs

        tables = []
        with BenchView(console) as view:
            for wanted in settings:
                view.begin(wanted.case)
                file = out / f"{wanted.case}-{method}.json"
                found = measure(wanted, subjects, file, steps=steps, bare=bare, watch=view.watch)
                tables.append(cost_table(found))
        for table in tables:
            console.print(table)
        known = sorted(map(read_results, out.glob("*.json")), key=_place)
        figures = write_costs(known, out)
        say(console, "Figures:", *figures)
        say(console, f"Tables: {out / 'table.md'} (explains the columns), {out / 'table.csv'}")


def _settings(cases: Sequence[str], **options: Any) -> list[Conditions]:
    """Checks all cases before the first is measured."""
    if not cases:
        raise RunError(f"give at least one case of {', '.join(CASES)}.")
    return [conditions(case, **options) for case in dict.fromkeys(cases)]


def _place(results: Mapping[str, Any]) -> tuple[str, int]:
    """The position of a case in the tables."""
    found, known = results["setting"], list(CASES)
    return found["method"], known.index(found["case"]) if found["case"] in known else len(known)
