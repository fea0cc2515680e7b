"""``samo sweep``: chooses the settings of every method and preset with equal budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.console import Console

from ..training import LEVELS, SweepPlan, compare, finals, plan_sweep, sweep
from ._console import fail, reporting_errors, say, say_levels
from ._parse import names, ranges
from ._results import best_table, show_results
from ._run_options import (
    EMA,
    Baselines,
    BenchmarkName,
    Ema,
    Jobs,
    Levels,
    Methods,
    Presets,
    Published,
    RunOptions,
    with_run_options,
)
from ._views import CompareView

Values = Annotated[str | None, typer.Option(metavar="RANGE", help="a..b or a,b,c.")]


@with_run_options
def sweep_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="Directory of the sweep.")],
    methods: Methods = "ls",
    sharpness: Presets = "erm,gsam,samo",
    rho: Values = None,
    alpha: Values = None,
    lr: Values = None,
    level: Levels = LEVELS[0],
    ema: Ema = EMA,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=RANGE", help="Any other setting, e.g. sharpness_options.mu."
        ),
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[int, typer.Option(help="Trials for each method and preset.")] = 30,
    trial_seeds: Annotated[int, typer.Option(help="Seeds per trial.")] = 1,
    seeds: Annotated[int, typer.Option(help="Seeds of the final comparison.")] = 3,
    jobs: Jobs = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="File or RDB URL that holds the trials. Default: a file in --out."),
    ] = None,
    search_seed: Annotated[int, typer.Option(min=0, help="Random seed of the search.")] = 0,
    stl: Baselines = True,
    published: Published = False,
    *,
    options: RunOptions,
) -> None:
    """Choose rho, alpha, lr or other settings on validation data; then compare as `compare` does.

    Each method with each preset gets the same number of trials. A range a..b is searched on a
    logarithmic scale if its ends differ by a factor of 10 or more; a..b:log and a..b:linear set the
    scale. Several processes may run the same command at once, on machines that share --out or
    --storage. Repeat an interrupted command to resume; repeat it with more --trials to continue the
    search.
    """
    with reporting_errors() as console:
        plan = plan_sweep(
            benchmark,
            names(methods),
            names(sharpness),
            ranges({"rho": rho, "alpha": alpha, "lr": lr}, set_),
            trials=trials,
            trial_seeds=trial_seeds,
            levels=names(level),
            ema=ema,
            **options.settings(benchmark),
        )
        finals(plan, (), seeds, stl=stl)  # reports invalid arguments before the search
        say_levels(console, names(level), plan.arms)
        _announce(console, plan)
        with CompareView(console, plan.runs) as view:
            result = sweep(
                plan, out, storage=storage, jobs=jobs, seed=search_seed, watch=view.watch
            )
        console.print(best_table(plan.arms, result.best))
        say(console, f"All trials: {out / 'trials.csv'}")
        if result.going_on:
            say(
                console,
                f"Trials still running in other processes: {result.going_on}. The last process "
                f"compares the best.",
            )
            return
        if not result.best:
            fail(result.failures)
        try:
            with FileLock(out / ".report.lock", timeout=0):
                cells = finals(plan, result.best, seeds, stl=stl)
                with CompareView(console, len(cells)) as view:
                    failures = compare(cells, out, jobs=jobs, watch=view.watch)
                show_results(console, out, published=published)
        except Timeout:
            say(console, "Another process is comparing the best.")
            return
        fail(failures)


def _announce(console: Console, plan: SweepPlan) -> None:
    space = {name: str(range_) for arm in plan.arms for name, range_ in arm.space.items()}
    for name, text in space.items():
        say(console, f"{name}: {text}")
    for arm in plan.arms:
        if not arm.free:
            say(console, f"{arm.name} has nothing to search: one trial.")
