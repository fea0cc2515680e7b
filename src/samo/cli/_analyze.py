"""``samo analyze``: why a trained model is as good as it is."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import NonFiniteError
from ..training import RunError, trained
from ._analyses import ANALYSES, Analyses, Request, Subject, runs_below
from ._arguments import Device, fail, told
from ._pictures import Part
from ._show import View

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SELDOM = ("landscape", "features")  # only if named
Loaded = dict[str, Any]
"""Results by the names of their files."""


class AnalyzeView(View):
    """Shows what is being analysed, and how many batches that has taken.

    Args:
        console: Where to.
        total: The number of analyses.
    """

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console)
        self._bar = self._bars.add_task("analyses", total=total, note="")
        self._what, self._seen = "", 0

    def begins(self, what: str) -> None:
        """Takes notice of what comes next."""
        self._what, self._seen = what, 0
        self._bars.update(self._bar, note=what)

    def tick(self) -> None:
        """Takes notice of a batch."""
        self._seen += 1
        self._bars.update(self._bar, note=f"{self._what}: {self._seen} batches")

    def ended(self, outcome: str) -> None:
        """Takes notice of an analysis's end."""
        self._bars.advance(self._bar)
        self._line(f"{self._what}: {outcome}")


def analyze_(
    run: Annotated[Path, typer.Argument(help="The directory of a run, or of several runs.")],
    spectrum: Annotated[bool, typer.Option("--spectrum", help="The Hessian's spectrum.")] = False,
    cosines: Annotated[bool, typer.Option("--cosines", help="Cosines of task gradients.")] = False,
    sharpness: Annotated[bool, typer.Option("--sharpness", help="Rise of the losses.")] = False,
    estimators: Annotated[
        bool, typer.Option("--estimators", help="How good estimates of the local gradient are.")
    ] = False,
    landscape: Annotated[bool, typer.Option("--landscape", help="Losses on a plane.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Features by t-SNE.")] = False,
    split: Annotated[Part, typer.Option(help="On which part of the data.")] = Part.TRAIN,
    batches: Annotated[
        int, typer.Option(min=0, help="On how many batches, of the run's size; 0 for all.")
    ] = 20,
    rho: Annotated[
        float | None, typer.Option(help="The radius of sharpness. Default: the benchmark's.")
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            help="The submodule whose outputs are the features, with {task} for one of each task. "
            "Default: the trunk."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed.")] = 0,
    device: Device = None,
    again: Annotated[
        bool, typer.Option("--again", help="Make anew what is there already.")
    ] = False,
) -> None:
    """Analyse trained models: Hessian spectra, task gradients, sharpness, landscapes, features.

    With none of these named, all but landscape and features. Results and figures are written to
    the run's directory, analysis/. What is there already, of the same weights and data, is kept.
    The weights are those of the best epoch on validation data.
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
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        if rho is not None and rho <= 0:
            raise RunError(f"--rho must be above 0; found {rho}.")
        found, failures = _all(console, runs_below(run), wanted, request, again=again)
        for table in _tables(found):
            console.print(table)
        for path in found:
            console.print(f"written to {path / 'analysis'}", highlight=False, soft_wrap=True)
        fail(errors, failures)


def _all(
    console: Console, runs: Sequence[Path], wanted: Sequence[str], request: Request, *, again: bool
) -> tuple[dict[Path, Loaded], dict[str, str]]:
    """Analyses the runs one after the other; where there are several, one that fails is passed."""
    found: dict[Path, Loaded] = {}
    failures: dict[str, str] = {}
    with AnalyzeView(console, len(runs) * len(wanted)) as view:
        for path in runs:
            try:
                found[path] = _one(view, path, wanted, request, again=again)
            except ValueError as error:  # RunError, AnalysisError and what models raise
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
        view.begins(f"{path} {name}")
        if kept.has(name) and not again:
            view.ended("is there already")
            continue
        kept.keep(name, ANALYSES[name](subject))
        view.ended("done")
    found = _load(kept.directory)
    _draw(found, kept.directory)
    return found


def _load(directory: Path) -> Loaded:
    """All results of a run, those of earlier calls as well."""
    from ..analysis import KINDS

    return {
        file.stem: kind.load(file)
        for kind in KINDS
        for file in sorted(directory.glob(f"{kind.kind}*.json"))
    }


def _draw(found: Loaded, directory: Path) -> None:
    # Matplotlib is for the end only.
    from .. import report

    plots: dict[str, Callable[[Any], Figure]] = {
        "spectrum": report.spectrum,
        "cosines": report.cosines,
        "sharpness": report.sharpness,
        "landscape": report.loss_planes,
        "features": report.features,
    }
    ways = {
        "sharpness": "along each task's own gradient",
        "sharpness-global": "along the mean gradient",
        "cosines": "at the parameters",
        "cosines-perturbed": "at the perturbed points",
    }
    for name, plot in plots.items():
        files = [name, f"{name}-global", f"{name}-perturbed"]
        shown = {ways.get(file, name): found[file] for file in files if file in found}
        if shown:
            report.save(plot(shown), directory / f"{name}.svg")
    if quality := found.get("estimators"):
        report.save(report.estimators(quality), directory / "estimators.svg")


def _tables(found: Mapping[Path, Loaded]) -> Iterable[Table]:
    """Of each kind, a row a run; and of a single run, what there is by task."""
    above = Path(os.path.commonpath([path.parent for path in found]))
    for title, figures_of in _FIGURES.items():
        rows = {str(path.relative_to(above)): figures_of(found[path]) for path in found}
        headings = list(dict.fromkeys(name for row in rows.values() for name in row))
        if not headings:
            continue
        table = Table(title=title)
        table.add_column("run", overflow="fold")
        for heading in headings:
            table.add_column(heading, justify="right")
        for name, row in rows.items():
            table.add_row(name, *(row.get(heading, "–") for heading in headings))
        yield table
    if len(found) == 1:
        (results,) = found.values()
        yield from _by_task(results)


def _spectrum(results: Loaded) -> dict[str, str]:
    if not (spectrum := results.get("spectrum")):
        return {}
    ratio = spectrum.lambda_ratio
    return {
        "λ_max": f"{spectrum.lambda_max:.4g}",
        "λ_max/λ_5": "–" if ratio is None else f"{ratio:.3g}",
        "trace": f"{spectrum.trace:.4g} ± {spectrum.trace_error:.2g}",
    }


def _cosines(results: Loaded) -> dict[str, str]:
    if not (cosines := results.get("cosines")):
        return {}
    k = len(cosines.tasks)
    pairs = [cosines.matrix[i][j] for i in range(k) for j in range(i)]
    met = cosines.batch_conflicts  # None where no two tasks have a batch in common
    return {
        "mean cosine": f"{statistics.fmean(pairs):.3f}",
        "conflicts": "–" if met is None else f"{100 * met:.0f} %",
        "norm balance": f"{cosines.balance:.2f}",
    }


def _sharpness(results: Loaded) -> dict[str, str]:
    ways = {"sharpness": "along own gradients", "sharpness-global": "along the mean gradient"}
    return {
        f"{way} (ρ = {sharp.rho:g})": f"{statistics.fmean(sharp.sharpness):.3g}"
        for name, way in ways.items()
        if (sharp := results.get(name))
    }


def _features(results: Loaded) -> dict[str, str]:
    features = results.get("features")
    return {"inter-cluster distance": f"{features.distance:.2f}"} if features else {}


_FIGURES: Mapping[str, Callable[[Loaded], dict[str, str]]] = {
    "Hessian": _spectrum,
    "Task gradients": _cosines,
    "Rise of the mean loss": _sharpness,
    "Features": _features,
}


def _by_task(results: Loaded) -> Iterable[Table]:
    cosines, sharp = results.get("cosines"), results.get("sharpness")
    if cosines and len(cosines.tasks) <= 12:
        table = Table("cosine", *cosines.tasks, "‖gradient‖", title="Task gradients")
        for task, row, norm in zip(cosines.tasks, cosines.matrix, cosines.norms, strict=True):
            table.add_row(task, *(f"{value:.3f}" for value in row), f"{norm:.3g}")
        yield table
    if sharp:
        table = Table("task", "loss", "rise", title=f"Sharpness at ρ = {sharp.rho:g}")
        for task, loss, rise in zip(sharp.tasks, sharp.natural, sharp.sharpness, strict=True):
            table.add_row(task, f"{loss:.4g}", f"{rise:.4g}")
        yield table
    if quality := results.get("estimators"):
        title = f"Cosine with the exact local gradient (d = {quality.parameters})"
        table = Table("estimator", "ĝ", f"ε, α = {quality.alpha:g}", title=title)
        mean = statistics.fmean(quality.mean_gradient.mean)
        table.add_row("mean gradient (α = 1)", "", f"{mean:.3f}")
        for name, direction in quality.direction.items():
            epsilon = statistics.fmean(quality.epsilon[name].mean)
            table.add_row(name, f"{statistics.fmean(direction.mean):.4f}", f"{epsilon:.3f}")
        yield table
