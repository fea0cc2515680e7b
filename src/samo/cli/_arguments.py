"""Options that several commands have, and what they all do about errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import NonFiniteError
from ..benchmarks import DataError
from ..training import PRESETS, SCHEDULES, RunError

BenchmarkName = Annotated[
    str, typer.Argument(help="A benchmark (see `samo list`), or your own as module:Class.")
]
Data = Annotated[
    Path | None,
    typer.Option(help="Where the benchmark's files lie. They may be moved between two calls."),
]
Methods = Annotated[str, typer.Option(help="Aggregation methods, with commas.")]
Presets = Annotated[str, typer.Option(help=f"Presets, with commas: {', '.join(PRESETS)}.")]
Jobs = Annotated[int, typer.Option(min=1, help="How many processes, a core each.")]
Baselines = Annotated[
    bool, typer.Option(help="Train single-task baselines, against which Δm is measured.")
]
OptionPairs = Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="May be repeated.")]
Epochs = Annotated[int | None, typer.Option(help="Times through the training data.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples a step.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
WeightDecay = Annotated[float | None, typer.Option(help="Weight decay.")]
OptimizerChoice = Annotated[str | None, typer.Option(help="adam, adamw or sgd.")]
ScheduleChoice = Annotated[
    str | None, typer.Option(help=f"How the learning rate changes: {', '.join(SCHEDULES)}.")
]
AverageLast = Annotated[
    int | None,
    typer.Option(
        help="Report the mean over this many last epochs; 0 for the epoch that is best on "
        "validation data."
    ),
]
Clip = Annotated[
    float | None, typer.Option(help="Clip the gradient to this norm. Default: no clipping.")
]
Published = Annotated[bool, typer.Option("--published", help="Show the papers' results beside.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda ..")]


@contextmanager
def told(console: Console) -> Iterator[None]:
    """Says in one line what the user can put right; errors of the program keep their traceback.

    Args:
        console: Where to.

    Yields:
        Nothing.

    Raises:
        Exit: With a status, after the line.
    """
    try:
        yield
    except (RunError, DataError) as error:
        console.print(f"samo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except NonFiniteError as error:
        console.print(f"samo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        console.print("samo: interrupted. The same command goes on from here.", style="yellow")
        raise typer.Exit(130) from error


def fail(console: Console, failures: Mapping[str, str]) -> None:
    """Names runs that failed; the status is 1 then.

    Args:
        console: Where to.
        failures: Why they failed, by their paths.

    Raises:
        Exit: If there are any.
    """
    for path, reason in failures.items():
        console.print(f"samo: {path} failed: {reason}", style="red", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)
