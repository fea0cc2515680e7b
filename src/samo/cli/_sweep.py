"""``samo sweep``: the settings of every method and preset, chosen by equal budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from ..training import SweepPlan, SweepResult, compare, finals, plan_sweep, sweep
from ._arguments import (
    AverageLast,
    Baselines,
    BatchSize,
    BenchmarkName,
    Clip,
    Data,
    Device,
    Epochs,
    Jobs,
    Methods,
    OptimizerChoice,
    OptionPairs,
    Presets,
    Published,
    ScheduleChoice,
    WeightDecay,
    fail,
    told,
)
from ._options import assignments, benchmark_options, names, ranges
from ._report import show_report
from ._show import CompareView

Values = Annotated[str | None, typer.Option(metavar="RANGE", help="a..b or a,b,c.")]


def sweep_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="The sweep's directory.")],
    methods: Methods = "ls",
    sharpness: Presets = "erm,gsam,samo",
    rho: Values = None,
    alpha: Values = None,
    lr: Values = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=RANGE", help="Anything else, e.g. sharpness_options.mu."
        ),
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[int, typer.Option(help="Settings to try, for each method and preset.")] = 30,
    trial_seeds: Annotated[int, typer.Option(help="Seeds that a trial's score is over.")] = 1,
    seeds: Annotated[int, typer.Option(help="Seeds to compare the best settings over.")] = 3,
    jobs: Jobs = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="A file or an RDB URL to share the trials by. Default: in --out."),
    ] = None,
    search_seed: Annotated[int, typer.Option(min=0, help="The seed of the search.")] = 0,
    stl: Baselines = True,
    published: Published = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    weight_decay: WeightDecay = None,
    optimizer: OptimizerChoice = None,
    schedule: ScheduleChoice = None,
    average_last: AverageLast = None,
    clip: Clip = None,
    device: Device = None,
    data: Data = None,
    benchmark_option: OptionPairs = [],  # noqa: B006
    schedule_option: OptionPairs = [],  # noqa: B006
) -> None:
    """Choose rho, alpha, lr or anything else on validation data; then compare as `compare` does.

    Each method with each preset gets the same number of trials. A range a..b is searched by
    logarithms if its ends are a factor of 10 or more apart; a..b:log and a..b:linear say which.
    Several processes may run the same command at once, on machines that share --out or --storage.
    After an interrupt the same command goes on; with more --trials it searches on.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        plan = plan_sweep(
            benchmark,
            names(methods),
            names(sharpness),
            ranges({"rho": rho, "alpha": alpha, "lr": lr}, set_),
            trials=trials,
            trial_seeds=trial_seeds,
            benchmark_options=benchmark_options(benchmark, benchmark_option, data),
            epochs=epochs,
            batch_size=batch_size,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule=schedule,
            schedule_options=assignments("--schedule-option", schedule_option),
            average_last=average_last,
            clip=clip,
            device=device,
        )
        finals(plan, (), seeds, stl=stl)  # what is wrong with it comes out before the search
        _announce(console, plan)
        with CompareView(console, plan.runs) as view:
            result = sweep(
                plan, out, storage=storage, jobs=jobs, seed=search_seed, watch=view.watch
            )
        console.print(_table(plan, result))
        console.print(f"All trials: {out / 'trials.csv'}", highlight=False, soft_wrap=True)
        if result.going_on:
            console.print(
                f"Trials that other processes are still at: {result.going_on}. The last process "
                f"compares the best."
            )
            return
        if not result.best:
            fail(errors, result.failures)
        try:
            with FileLock(out / ".report.lock", timeout=0):
                cells = finals(plan, result.best, seeds, stl=stl)
                with CompareView(console, len(cells)) as view:
                    failures = compare(cells, out, jobs=jobs, watch=view.watch)
                show_report(console, out, published=published)
        except Timeout:
            console.print("Another process is comparing the best.")
            return
        fail(errors, failures)


def _announce(console: Console, plan: SweepPlan) -> None:
    space = {name: str(range_) for arm in plan.arms for name, range_ in arm.space.items()}
    for name, text in space.items():
        console.print(f"{name}: {text}", highlight=False, markup=False)
    for arm in plan.arms:
        if not arm.free:
            console.print(f"{arm.name} has nothing to choose: one trial.", highlight=False)


def _table(plan: SweepPlan, result: SweepResult) -> Table:
    table = Table(title="best trials, by their score on validation data")
    chosen = list(dict.fromkeys(name for arm in plan.arms for name in arm.space))
    for title in ("method", "sharpness", "trials", "score", *chosen):
        left = title in {"method", "sharpness"}
        table.add_column(
            title.removeprefix("sharpness_options."), justify="left" if left else "right"
        )
    for best in result.best:
        values = [best.params.get(name, "–") for name in chosen]
        words = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        trials = f"{best.trials}, {best.failed} failed" if best.failed else f"{best.trials}"
        table.add_row(best.arm.method, best.arm.sharpness, trials, f"{best.score:.4g}", *words)
    return table
