"""The commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from ..training import LEVELS, PRESETS, configured, train
from ._analyze import analyze_
from ._bench import bench_
from ._compare import compare_
from ._console import reporting_errors, say
from ._data import data
from ._list import NOTES, tables
from ._parse import assignments, names
from ._report import report_
from ._results import published_delta_m, scores_tables
from ._run_options import (
    BenchmarkName,
    Ema,
    Lr,
    OptionPairs,
    RunOptions,
    with_run_options,
)
from ._show import show_
from ._sweep import sweep_
from ._toy import toy_
from ._views import TrainView

app = typer.Typer(
    name="samo",
    help="Sharpness-aware multi-task optimisation: training and comparisons.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Kind(StrEnum):
    """Kinds of entries of `samo list`."""

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
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command("list")
def list_(
    what: Annotated[Kind | None, typer.Argument(help="List this kind, with all details.")] = None,
) -> None:
    """List benchmarks, aggregation methods, sharpness presets and learning-rate schedules."""
    console = Console()
    for table in tables(None if what is None else what.value):
        console.print(table)
    if what is not None and (note := NOTES.get(what.value)):
        console.print(note)


@app.command("train")
@with_run_options
def train_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    method: Annotated[str, typer.Option(help="An aggregation method.")] = "ls",
    sharpness: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "erm",
    rho: Annotated[float | None, typer.Option(help="Radius of the perturbation.")] = None,
    level: Annotated[
        str, typer.Option(help=f"Where task gradients are compared: {' or '.join(LEVELS)}.")
    ] = LEVELS[0],
    tasks: Annotated[
        str | None, typer.Option(help="Tasks to train, separated by commas. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    lr: Lr = None,
    ema: Ema = 0.0,
    method_option: OptionPairs = [],  # noqa: B006 - typer copies it
    sharpness_option: OptionPairs = [],  # noqa: B006
    *,
    options: RunOptions,
) -> None:
    """Train one run, or resume an interrupted one.

    Defaults depend on the benchmark. Options of the method and of the preset are given by name:
    --method-option alpha=2 --sharpness-option mu=0.02.
    """
    with reporting_errors() as console:
        config = configured(
            benchmark=benchmark,
            tasks=None if tasks is None else tuple(names(tasks)),
            method=method,
            method_options=assignments("--method-option", method_option),
            sharpness=sharpness,
            sharpness_options=assignments("--sharpness-option", sharpness_option),
            rho=rho,
            level=level,
            seed=seed,
            lr=lr,
            ema=ema,
            **options.settings(benchmark),
        )
        with TrainView(console, config.epochs) as view:
            results = train(config, out, watch=view.watch)
        console.print(*scores_tables(results), sep="\n")
        if line := published_delta_m(results):
            say(console, line)
        say(console, f"written to {out}")


app.command("compare")(compare_)
app.command("sweep")(sweep_)
app.command("report")(report_)
app.command("show")(show_)
app.command("analyze")(analyze_)
app.command("toy")(toy_)
app.command("bench")(bench_)
app.add_typer(data, name="data")
