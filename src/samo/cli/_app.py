"""The commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from ..training import PRESETS, compare, configured, plan, train
from ._analyze import analyze_
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
    Lr,
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
from ._bench import bench_
from ._data import data
from ._html import report_
from ._list import tables
from ._options import assignments, benchmark_options, names, numbers
from ._pictures import show_
from ._report import published_delta_m, show_report
from ._show import CompareView, TrainView, scores_table
from ._sweep import sweep_
from ._toy import toy_

app = typer.Typer(
    name="samo",
    help="Sharpness-aware multi-task optimisation: train, and compare.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Kind(StrEnum):
    """What can be listed."""

    BENCHMARKS = "benchmarks"
    METHODS = "methods"
    SHARPNESS = "sharpness"
    SCHEDULES = "schedules"


def _version(*, wanted: bool) -> None:
    if wanted:
        print(f"samo {__version__}")
        raise typer.Exit


@app.callback()
def _samo(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    what: Annotated[
        Kind | None, typer.Argument(help="All there is to know of one of these.")
    ] = None,
) -> None:
    """List benchmarks, aggregation methods and sharpness presets."""
    console = Console()
    for table in tables(None if what is None else what.value):
        console.print(table)


@app.command("train")
def train_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="The run's directory.")],
    method: Annotated[str, typer.Option(help="An aggregation method.")] = "ls",
    sharpness: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "erm",
    rho: Annotated[float | None, typer.Option(help="The radius of the perturbation.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, with commas.")] = None,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    optimizer: OptimizerChoice = None,
    schedule: ScheduleChoice = None,
    average_last: AverageLast = None,
    clip: Clip = None,
    device: Device = None,
    data: Data = None,
    benchmark_option: OptionPairs = [],  # noqa: B006 - typer copies it
    method_option: OptionPairs = [],  # noqa: B006
    sharpness_option: OptionPairs = [],  # noqa: B006
    schedule_option: OptionPairs = [],  # noqa: B006
) -> None:
    """Train one run, or go on with one that was interrupted.

    What is left out is the benchmark's default. Options of the method and of the preset are given
    by name: --method-option alpha=2 --sharpness-option mu=0.02.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        config = configured(
            benchmark=benchmark,
            benchmark_options=benchmark_options(benchmark, benchmark_option, data),
            tasks=None if tasks is None else tuple(names(tasks)),
            method=method,
            method_options=assignments("--method-option", method_option),
            sharpness=sharpness,
            sharpness_options=assignments("--sharpness-option", sharpness_option),
            rho=rho,
            seed=seed,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule=schedule,
            schedule_options=assignments("--schedule-option", schedule_option),
            average_last=average_last,
            clip=clip,
            device=device,
        )
        with TrainView(console, config.epochs) as view:
            results = train(config, out, watch=view.watch)
        console.print(scores_table(results))
        if line := published_delta_m(results):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(f"written to {out}", highlight=False, soft_wrap=True)


@app.command("compare")
def compare_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="The comparison's directory.")],
    methods: Methods = "ls",
    sharpness: Presets = "erm,gsam,samo",
    rho: Annotated[
        str | None,
        typer.Option(help="The radii to choose from on validation data, with commas."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    jobs: Jobs = 1,
    stl: Baselines = True,
    published: Published = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    optimizer: OptimizerChoice = None,
    schedule: ScheduleChoice = None,
    average_last: AverageLast = None,
    clip: Clip = None,
    device: Device = None,
    data: Data = None,
    benchmark_option: OptionPairs = [],  # noqa: B006 - typer copies it
    schedule_option: OptionPairs = [],  # noqa: B006
) -> None:
    """Train methods with presets over several seeds, and hold them against each other.

    Finished runs are kept; after an interrupt the same command goes on. With several ρ, each method
    and preset is reported at the one that is best on validation data.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        cells = plan(
            benchmark,
            names(methods),
            names(sharpness),
            numbers("--rho", rho),
            seeds,
            stl=stl,
            benchmark_options=benchmark_options(benchmark, benchmark_option, data),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            optimizer=optimizer,
            schedule=schedule,
            schedule_options=assignments("--schedule-option", schedule_option),
            average_last=average_last,
            clip=clip,
            device=device,
        )
        with CompareView(console, len(cells)) as view:
            failures = compare(cells, out, jobs=jobs, watch=view.watch)
        show_report(console, out, published=published)
        fail(errors, failures)


app.command("sweep")(sweep_)
app.command("report")(report_)
app.command("show")(show_)
app.command("analyze")(analyze_)
app.command("toy")(toy_)
app.command("bench")(bench_)
app.add_typer(data, name="data")
