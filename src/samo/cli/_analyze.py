"""``samo analyze``: analyses trained models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .. import NonFiniteError
from ..analysis import KINDS
from ..training import RunError, trained
from ._analyses import ANALYSES, Analyses, Request, Subject, runs_below
from ._console import fail, reporting_errors, say
from ._run_options import Device, Split
from ._views import AnalyzeView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SELDOM = ("landscape", "features")  # on request only
Loaded = dict[str, Any]
"""Results by the names of their files."""

# Matplotlib is loaded at the end of the command only: all imports of `report` are in functions.


def analyze_(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or of several runs.")],
    spectrum: Annotated[bool, typer.Option("--spectrum", help="Spectrum of the Hessian.")] = False,
    cosines: Annotated[bool, typer.Option("--cosines", help="Cosines of task gradients.")] = False,
    sharpness: Annotated[
        bool, typer.Option("--sharpness", help="Increase of perturbed losses.")
    ] = False,
    estimators: Annotated[
        bool, typer.Option("--estimators", help="Quality of estimates of the local gradients.")
    ] = False,
    landscape: Annotated[bool, typer.Option("--landscape", help="Losses on a plane.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Features by t-SNE.")] = False,
    split: Annotated[Split, typer.Option(help="Split of the data.")] = Split.TRAIN,
    batches: Annotated[
        int, typer.Option(min=0, help="Number of batches, of the run's batch size; 0 for all.")
    ] = 20,
    rho: Annotated[
        float | None, typer.Option(help="Radius of sharpness. Default: that of the benchmark.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="Submodule whose outputs are the features, with {task} for one per task. "
            "Default: the trunk."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    device: Device = None,
    again: Annotated[bool, typer.Option("--again", help="Repeat finished analyses.")] = False,
) -> None:
    """Analyse trained models: Hessian spectra, task gradients, sharpness, landscapes, features.

    Without any of these options, all but landscape and features are analysed. Results and figures
    are written to analysis/ in the directory of the run. Finished analyses of the same weights and
    data are kept. The weights are those of the best epoch on validation data.
    """  # noqa: DOC501 - this is the help
    named = dict(
        spectrum=spectrum,
        cosines=cosines,
        sharpness=sharpness,
        estimators=estimators,
        landscape=landscape,
        features=features,
    )
    wanted = [n for n, yes in named.items() if yes] or [n for n in ANALYSES if n not in _SELDOM]
    request = Request(split.value, batches, rho, module, seed, device or "cpu")
    with reporting_errors() as console:
        if rho is not None and rho <= 0:
            raise RunError(f"--rho must be above 0; found {rho}.")
        found, failures = _all(console, runs_below(run), wanted, request, again=again)
        if found:
            _print(console, found)
        fail(failures)


def _all(
    console: Console, runs: Sequence[Path], wanted: Sequence[str], request: Request, *, again: bool
) -> tuple[dict[Path, Loaded], dict[str, str]]:
    """Analyses the runs in turn; if one of several fails, the others are still analysed."""
    found: dict[Path, Loaded] = {}
    failures: dict[str, str] = {}
    with AnalyzeView(console, len(runs) * len(wanted)) as view:
        for path in runs:
            try:
                found[path] = _one(view, path, wanted, request, again=again)
            except ValueError as error:  # RunError, AnalysisError and errors of models
                if len(runs) == 1:
                    raise RunError(f"{path}: {error}") from error
                failures[str(path)] = str(error)
            except NonFiniteError as error:
                if len(runs) == 1:
                    raise
                failures[str(path)] = str(error)
    return found, failures


def _one(
    view: AnalyzeView, path: Path, wanted: Sequence[str], request: Request, *, again: bool
) -> Loaded:
    model = trained(path)
    subject = Subject(model, request, view.tick)
    kept = Analyses(path, model, request)
    for name in wanted:
        view.begin(f"{path} {name}")
        if kept.has(name) and not again:
            view.end("exists already")
            continue
        kept.keep(name, ANALYSES[name](subject))
        view.end("done")
    found = _load(kept.directory)
    _draw(found, kept.directory)
    return found


def _load(directory: Path) -> Loaded:
    """Loads all results of a run, including those of earlier calls."""
    return {
        file.stem: kind.load(file)
        for kind in KINDS
        for file in sorted(directory.glob(f"{kind.kind}*.json"))
    }


def _draw(found: Loaded, directory: Path) -> None:
    from .. import report

    plots: dict[str, Callable[[Any], Figure]] = {
        "spectrum": report.spectrum,
        "cosines": report.cosines,
        "sharpness": report.sharpness,
        "landscape": report.loss_planes,
        "features": report.features,
    }
    labels = {
        "sharpness": "along each task's own gradient",
        "sharpness-global": "along the mean gradient",
        "cosines": "at the natural point",
        "cosines-perturbed": "at the perturbed points",
    }
    for name, plot in plots.items():
        files = [name, f"{name}-global", f"{name}-perturbed"]
        shown = {labels.get(file, name): found[file] for file in files if file in found}
        if shown:
            report.save(plot(shown), directory / f"{name}.svg")
    if quality := found.get("estimators"):
        report.save(report.estimators(quality), directory / "estimators.svg")


def _print(console: Console, found: Mapping[Path, Loaded]) -> None:
    from ..report.tables import analyses_tables, fitting

    above = Path(os.path.commonpath([path.parent for path in found]))
    results = {str(path.relative_to(above)): loaded for path, loaded in found.items()}
    for table in analyses_tables(results):
        console.print(fitting([table], console.width))
    for path in found:
        say(console, f"written to {path / 'analysis'}")
