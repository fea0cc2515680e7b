"""``samo bench``: what a step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..cost import CASES, SUBJECTS, Conditions, chosen, conditions, measure, read_results
from ..training import RunError
from ._arguments import told
from ._options import names
from ._show import View


class BenchView(View):
    """Shows measurements: a bar a case.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console, by_itself=False)  # nothing runs beside what is timed
        self._case = ""
        self._bar = self._bars.add_task("measurements", total=1, note="")

    def begin(self, case: str) -> None:
        """Takes notice of the next case.

        Args:
            case: The case.
        """
        self._case = case
        self._bars.reset(self._bar, description=case, total=1, note="getting ready")
        self._bars.refresh()

    def watch(self, done: int, total: int) -> None:
        """Takes notice of how far the case is.

        Args:
            done: How many of its measurements are done.
            total: Of how many.
        """
        self._bars.update(self._bar, completed=done, total=total, note="", refresh=True)
        if done == total:
            self._line(f"{self._case}: {total} measurements done")


def bench_(
    cases: Annotated[
        str | None,
        typer.Option(help=f"Cases, with commas: {', '.join(CASES)}; all if left out."),
    ] = None,
    presets: Annotated[
        str | None,
        typer.Option(help=f"Steps, with commas: {', '.join(SUBJECTS)}; all if left out."),
    ] = None,
    method: Annotated[str, typer.Option(help="The aggregation method.")] = "fairgrad",
    size: Annotated[
        str | None,
        typer.Option(help="small, standard (the default on a CPU) or full (on a GPU)."),
    ] = None,
    tasks: Annotated[int | None, typer.Option(help="Another number of tasks.")] = None,
    batch: Annotated[int | None, typer.Option(help="Another batch.")] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Timings of each step; 0 for passes and memory only."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("runs/bench"),
) -> None:
    """Measure what a step costs, against the arithmetic that it needs.

    Every preset and estimator, TorchJD's plain step, and for each the same forward and backward
    passes in a bare loop: time, memory, random numbers. Measurements are kept; after an interrupt
    the same command goes on, and more steps or presets are added to what is there.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        subjects = chosen(names(presets or ""), method)
        settings = _settings(
            names(",".join(CASES) if cases is None else cases),
            size=size,
            tasks=tasks,
            batch=batch,
            method=method,
            device=device,
            threads=threads,
        )
        # Matplotlib loads while nothing is timed.
        from ..report import cost_table, write_costs

        tables = []
        with BenchView(console) as view:
            for wanted in settings:
                view.begin(wanted.case)
                file = out / f"{wanted.case}-{method}.json"
                tables.append(
                    cost_table(measure(wanted, subjects, file, steps=steps, watch=view.watch))
                )
        for table in tables:
            console.print(table)
        found = sorted(map(read_results, out.glob("*.json")), key=_place)
        figures = write_costs(found, out)
        console.print("Figures:", *figures, sep="\n  ", highlight=False, soft_wrap=True)
        about = f"{out / 'table.md'} (says what the columns are), {out / 'table.csv'}"
        console.print(f"Tables: {about}", highlight=False, soft_wrap=True)


def _settings(cases: Sequence[str], **options: Any) -> list[Conditions]:
    """What is to be measured: all of it is looked up before any of it begins."""
    if not cases:
        raise RunError(f"name at least one case of {', '.join(CASES)}.")
    return [conditions(case, **options) for case in dict.fromkeys(cases)]


def _place(results: Mapping[str, Any]) -> tuple[str, int]:
    """Where the results of a case come in the tables."""
    found = results["setting"]
    known = list(CASES)
    place = known.index(found["case"]) if found["case"] in known else len(known)
    return found["method"], place
