"""The results of `samo analyze`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from ...analysis import (
    AnalysisError,
    Cosines,
    EstimatorQuality,
    Features,
    Landscape,
    Sharpness,
    Spectrum,
)
from ...analysis._kinds import KINDS
from ...analysis._results import FORMAT, Result
from ..figures import cosines, estimators, features, loss_planes, sharpness, spectrum
from ..html._foreign import UnusableError, parse, plain, read_text
from ..html._scan import Findings, FoundRun
from ..tables import Cell, Table, cell
from ._blocks import Block, Words, picture
from ._groups import Group

_MOST = 12  # panels of a kind
_ABREAST = 4
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Analysed:
    """A result of an analysis.

    Attributes:
        run: The run.
        name: What distinguishes it from others of its kind and run; mostly ``""``.
        result: The result.
    """

    run: FoundRun
    name: str
    result: Result

    @property
    def arm(self) -> str:
        """The method, preset and ρ of its run, the same for all seeds."""
        config = self.run.config
        if self.run.baseline:
            words = ["STL", *(config["tasks"] or ())]
        else:
            words = [config["method"], config["sharpness"]]
            words += [] if config["rho"] is None else [f"ρ = {config['rho']:g}"]
        return " ".join([*words, *([f"({self.name})"] if self.name else [])])

    @property
    def label(self) -> str:
        """The same with the seed."""
        return f"{self.arm}, seed {self.run.config['seed']}"


def _read(run: FoundRun, found: Findings) -> Iterator[Analysed]:
    """Reads ``analysis/*.json`` of a run; invalid files are left out and listed."""
    directory = run.directory / "analysis"
    if directory.is_symlink():
        found.left_out(directory, "it is a link, which is not followed")
        return
    for file in sorted(directory.glob("*.json")):
        try:
            result = _result(file, found.root)
        except (UnusableError, AnalysisError) as error:
            found.left_out(file, str(error).removeprefix(f"{file}: "))
            continue
        name = file.stem.removeprefix(result.kind).strip("-_.")
        yield Analysed(run, plain(name, 40), result)


def _result(file: Path, root: Path) -> Result:
    content = parse(read_text(file, root))
    if not isinstance(content, dict):
        raise UnusableError("it is not a JSON object")
    kind, version = content.pop("kind", None), content.pop("format", None)
    known = {one.kind: one for one in KINDS}
    if kind not in known:
        raise UnusableError(f"its kind must be one of {', '.join(known)}; found {kind!r}")
    if version != FORMAT:
        raise UnusableError(f"its format must be {FORMAT}; found {version!r}")
    return known[kind]._checked(content, file)


def analyses(group: Group, found: Findings, prefix: str) -> list[Block]:
    """Shows the analyses of a group's runs: figures, and the spectra in numbers."""
    all_ = [one for run in group.runs for one in _read(run, found)]
    drawing = _Drawing(f"{prefix}-analysis")
    if spectra := _by_arm(all_, Spectrum):
        drawing.add(spectrum, spectra, _SPECTRUM, themed=True, abreast=6)
        drawing.blocks.append(_spectrum_table(all_, prefix))
    drawing.add(cosines, _by_label(all_, Cosines), _COSINES)
    drawing.add(sharpness, _by_arm(all_, Sharpness), _SHARPNESS, themed=True, abreast=6)
    quality = _by_label(all_, EstimatorQuality)
    drawing.add(_estimators, quality, _ESTIMATORS, themed=True, abreast=1)
    drawing.add(loss_planes, _by_label(all_, Landscape), _LANDSCAPE, abreast=1)
    drawing.add(features, _by_label(all_, Features), _FEATURES)
    return drawing.blocks


_SPECTRUM = (
    "The largest eigenvalues of the Hessian of the loss: mean over the seeds, bars from the lowest "
    "to the highest. Flat minima have small ones."
)
_COSINES = (
    "The cosines between the tasks' gradients: blue pairs agree, red ones are in conflict. On the "
    "diagonal are the norms of the gradients."
)
_SHARPNESS = "How much each task's loss rises at the perturbed point, from the natural loss."
_ESTIMATORS = "The cosine between estimated and exact local gradients, by task."
_LANDSCAPE = "The mean loss and that of each task on a plane through the weights. Dark is low."
_FEATURES = "Features as laid out by t-SNE, with the mean distance between clusters."


def _estimators(found: Mapping[str, EstimatorQuality]) -> Figure:
    (one,) = found.values()
    return estimators(one)


def _by_arm(all_: Iterable[Analysed], kind: type[R]) -> dict[str, list[R]]:
    """The results of the seeds, by arm."""
    arms: dict[str, list[R]] = {}
    for one in all_:
        if isinstance(one.result, kind):
            arms.setdefault(one.arm, []).append(one.result)
    return arms


def _by_label(all_: Iterable[Analysed], kind: type[R]) -> dict[str, R]:
    """The results by arm and seed."""
    return {one.label: one.result for one in all_ if isinstance(one.result, kind)}


class _Drawing:
    """Figures, each of as many results as it has room for."""

    def __init__(self, prefix: str) -> None:
        self.blocks: list[Block] = []
        self._prefix = prefix
        self._count = 0

    def add(
        self,
        plot: Callable[[Any], Figure],
        results: Mapping[str, Any],
        caption: str,
        *,
        themed: bool = False,
        abreast: int = _ABREAST,
    ) -> None:
        """Draws the results of one kind, in as many figures as needed."""
        labels = list(results)[:_MOST]
        for start in range(0, len(labels), abreast):
            shown = {label: results[label] for label in labels[start : start + abreast]}
            self._count += 1
            name, named = f"{self._prefix}{self._count}", "; ".join(shown)
            text = caption if len(shown) > 1 else f"{named}. {caption}"
            draw, what = partial(plot, shown), f"The analysis of {named}"
            self.blocks += picture(draw, name, text, what, themed=themed)
        if len(results) > len(labels):
            line = f"Drawn are {len(labels)} of {len(results)}; the others are beside their runs."
            self.blocks.append(Words([line]))


def _spectrum_table(all_: Iterable[Analysed], prefix: str) -> Table:
    rows = [
        [
            Cell(one.label),
            Cell(", ".join(its.tasks)),
            cell(its.lambda_max, ".4g"),
            cell(its.lambda_ratio, ".4g"),
            cell(its.trace, ".4g"),
            cell(its.trace_error, ".2g"),
            cell(its.parameters, "d"),
        ]
        for one in all_
        if isinstance(its := one.result, Spectrum) and its.eigenvalues
    ]
    heads = ["run", "loss of", "λ_max", "λ_max / λ_5", "trace", "its standard error", "parameters"]
    return Table("Hessian spectra", heads, rows, id=f"{prefix}-spectra")
