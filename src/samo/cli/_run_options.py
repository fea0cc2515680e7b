"""Options shared by several commands."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..training import LEVELS, PRESETS, SCHEDULES
from ._parse import assignments, benchmark_options

BenchmarkName = Annotated[
    str, typer.Argument(help="A benchmark (see `samo list`), or your own as module:Class.")
]
Methods = Annotated[str, typer.Option(help="Aggregation methods, separated by commas.")]
Presets = Annotated[str, typer.Option(help=f"Presets, separated by commas: {', '.join(PRESETS)}.")]
Levels = Annotated[
    str,
    typer.Option(
        help=f"Where task gradients are compared; levels, separated by commas: {', '.join(LEVELS)}."
    ),
]
Jobs = Annotated[int, typer.Option(min=1, help="Number of processes, one core each.")]
Baselines = Annotated[bool, typer.Option(help="Train single-task baselines, the reference of Δm.")]
OptionPairs = Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="May be repeated.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate.")]
Ema = Annotated[
    float,
    typer.Option(
        help="Decay of the moving average of the weights, which is scored beside them; 0 for none."
    ),
]
Contrasts = Annotated[
    list[str],
    typer.Option(
        metavar="ARM:ARM",
        help="Difference to report with its interval, such as erm+ema:gsam. May be repeated.",
    ),
]
EMA = 0.98
"""The default decay in comparisons."""
Published = Annotated[
    bool, typer.Option("--published", help="Show published results of the benchmark as well.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.")]


class Split(StrEnum):
    """The splits of a benchmark's data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class RunOptions:
    """The options of every run, for `train`, `compare` and `sweep`."""

    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Examples per batch.")] = None
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None
    schedule: Annotated[
        str | None, typer.Option(help=f"Learning-rate schedule: {', '.join(SCHEDULES)}.")
    ] = None
    average_last: Annotated[
        int | None,
        typer.Option(
            help="Report the mean over this many last epochs; 0 to report the epoch with the best "
            "validation score."
        ),
    ] = None
    clip: Annotated[
        float | None, typer.Option(help="Clip the gradient to this norm. Default: no clipping.")
    ] = None
    device: Device = None
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of the benchmark's files. May change when a run resumes."),
    ] = None
    benchmark_option: OptionPairs = field(default_factory=list)
    schedule_option: OptionPairs = field(default_factory=list)

    def settings(self, benchmark: str) -> dict[str, Any]:
        """The arguments of `configured`, `plan` and `plan_sweep` for a benchmark."""
        given = asdict(self)
        data, pairs = given.pop("data"), given.pop("benchmark_option")
        return {
            "benchmark_options": benchmark_options(benchmark, pairs, data),
            "schedule_options": assignments("--schedule-option", given.pop("schedule_option")),
            **given,
        }


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Exposes the fields of a command's parameter ``options: RunOptions`` as its own options."""
    own = inspect.signature(command, eval_str=True)
    shared, defaults = get_type_hints(RunOptions, include_extras=True), RunOptions()
    named = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=named) for n, p in own.parameters.items() if n != "options"]
    for name, hint in shared.items():
        default = getattr(defaults, name)
        parameters.append(inspect.Parameter(name, named, default=default, annotation=hint))

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        options = RunOptions(**{name: given.pop(name) for name in shared})
        command(**given, options=options)

    flat.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return flat
