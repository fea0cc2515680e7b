"""``samo compare``: trains methods with presets over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..training import (
    LEVELS,
    Best,
    RunError,
    Tuning,
    compare,
    extended,
    finals,
    plan,
    plan_tuning,
    tune,
)
from ._console import fail, reporting_errors, say, say_levels
from ._parse import names, numbers
from ._results import best_table, show_results
from ._run_options import (
    EMA,
    Baselines,
    BenchmarkName,
    Contrasts,
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

_MOST_EXTENSIONS = 6


@with_run_options
def compare_(
    benchmark: BenchmarkName,
    out: Annotated[Path, typer.Option(help="Directory of the comparison.")],
    methods: Methods = "ls",
    sharpness: Presets = "erm,gsam,samo",
    rho: Annotated[
        str | None,
        typer.Option(help="Radii to choose from on validation data, separated by commas."),
    ] = None,
    level: Levels = LEVELS[0],
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    jobs: Jobs = 1,
    stl: Baselines = True,
    published: Published = False,
    lr: Annotated[
        str | None, typer.Option(help="Learning rate; several, separated by commas, are tuned.")
    ] = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Tune further values while the best is at an edge.")
    ] = False,
    trial_seeds: Annotated[int, typer.Option(help="Seeds per trial, for tuning.")] = 3,
    ema: Ema = EMA,
    contrast: Contrasts = [],  # noqa: B006 - typer copies it
    *,
    options: RunOptions,
) -> None:
    """Train methods with presets over several seeds, and compare them.

    Finished runs are kept; repeat an interrupted command to resume. With several radii, each method
    and preset is reported at the radius with the best validation score. With several learning
    rates, learning rate and radius are first tuned for each method and preset, with equal numbers
    of trials, on validation data and with other seeds. With --level parameter,representation,
    methods that compare task gradients are trained at both levels where the preset allows it; the
    others are at the parameters.
    """  # noqa: DOC501 - this is the help
    with reporting_errors() as console:
        arms, lrs = (benchmark, names(methods), names(sharpness)), numbers("--lr", lr)
        radii = numbers("--rho", rho)
        common = {"levels": names(level), "ema": ema, **options.settings(benchmark)}
        if len(lrs) > 1:
            tuning = plan_tuning(*arms, lrs, radii, trial_seeds=trial_seeds, **common)
            finals(tuning, (), seeds, stl=stl)  # reports invalid arguments before the tuning
            tuning, best = _tuned(console, tuning, out, jobs, extend=extend)
            cells = finals(tuning, best, seeds, stl=stl)
        elif extend:
            raise RunError("--extend needs several values of --lr to begin with.")
        else:
            cells = plan(*arms, radii, seeds, stl=stl, lr=lrs[0] if lrs else None, **common)
        say_levels(console, names(level), [cell.config for cell in cells if not cell.baseline])
        with CompareView(console, len(cells)) as view:
            failures = compare(cells, out, contrasts=contrast, jobs=jobs, watch=view.watch)
        show_results(console, out, published=published)
        fail(failures)


def _tuned(
    console: Console, tuning: Tuning, out: Path, jobs: int, *, extend: bool
) -> tuple[Tuning, list[Best]]:
    """Tunes, with longer lists while the best is at an edge if they may be extended."""
    for _ in range(_MOST_EXTENSIONS + 1):
        for name, values in tuning.lists.items():
            say(console, f"{name}: {', '.join(f'{value:g}' for value in values)}")
        with CompareView(console, len(tuning.all_cells)) as view:
            best = tune(tuning, out, jobs=jobs, watch=view.watch)
        wider = extended(tuning, best) if extend else None
        if wider is None:
            break
        tuning = wider
    if not best:
        raise RunError(f"no trial has finished: see {out / 'trials.csv'}.")
    console.print(best_table(tuning.arms, best))
    return tuning, best
