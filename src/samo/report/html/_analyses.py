"""What `samo analyze` has left beside the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
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
from ...records.foreign import UnusableError, parse, plain, read_text
from ...records.scan import Findings, FoundRun
from .._analysis_plots import cosines, estimators, sharpness, spectrum
from .._feature_plots import features
from .._plane_plots import loss_planes
from ._blocks import Block, Cell, Picture, Table, Words, number
from ._groups import Group
from ._svg import inline

_MOST = 12  # panels of a kind
_ABREAST = 4
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Analysed:
    """A result of an analysis.

    Attributes:
        run: The run that it is of.
        name: What tells it from others of its kind of the same run; mostly ``""``.
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


def read_analyses(runs: Iterable[FoundRun], found: Findings) -> list[Analysed]:
    """Reads ``analysis/*.json`` of runs; what is not what it should be is left out and named.

    Args:
        runs: The runs.
        found: Where to name it.

    Returns:
        The results.
    """
    return list(chain.from_iterable(_of_run(run, found) for run in runs))


def _of_run(run: FoundRun, found: Findings) -> Iterator[Analysed]:
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
        raise UnusableError("it is no JSON object")
    kind, version = content.pop("kind", None), content.pop("format", None)
    known = {one.kind: one for one in KINDS}
    if kind not in known:
        raise UnusableError(f"its kind must be one of {', '.join(known)}; found {kind!r}")
    if version != FORMAT:
        raise UnusableError(f"its format must be {FORMAT}; found {version!r}")
    return known[kind]._checked(content, file)


def analyses(group: Group, found: Findings, prefix: str) -> list[Block]:
    """Shows the analyses of the runs of a group.

    Args:
        group: The runs.
        found: Where what is left out is named.
        prefix: What ids begin with.

    Returns:
        Figures, and the spectra in numbers.
    """
    all_ = read_analyses(group.runs, found)
    draw = _Drawing(f"{prefix}-analysis")
    if spectra := _by_arm(all_, Spectrum):
        draw.add(spectrum, spectra, _SPECTRUM, themed=True, abreast=6)
        draw.blocks.append(_spectrum_table(all_, prefix))
    draw.add(cosines, _by_label(all_, Cosines), _COSINES)
    draw.add(sharpness, _by_arm(all_, Sharpness), _SHARPNESS, themed=True, abreast=6)
    draw.add(_estimators, _by_label(all_, EstimatorQuality), _ESTIMATORS, themed=True, abreast=1)
    draw.add(loss_planes, _by_label(all_, Landscape), _LANDSCAPE, abreast=1)
    draw.add(features, _by_label(all_, Features), _FEATURES)
    return draw.blocks


_SPECTRUM = (
    "The largest eigenvalues of the Hessian of the loss: mean over the seeds, bars from the lowest "
    "to the highest. Flat minima have small ones."
)
_COSINES = (
    "The cosines between the tasks' gradients: blue pairs agree, red ones are in conflict. On the "
    "diagonal are the norms of the gradients."
)
_SHARPNESS = "How much each task's loss rises at the perturbed point, from the natural loss."
_ESTIMATORS = "The cosine of estimated and exact local gradients, by task: how good they are."
_LANDSCAPE = "The mean loss and that of each task on a plane through the weights. Dark is low."
_FEATURES = "Features as t-SNE lays them out, with the mean distance between clusters."


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


def _portions(results: Mapping[str, Any], size: int) -> Iterator[list[tuple[str, Any]]]:
    items = iter(results.items())
    while portion := list(islice(items, size)):
        yield portion


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
        """Draws results of one kind, each figure for itself."""
        shown = dict(list(results.items())[:_MOST])
        for items in _portions(shown, abreast):
            self._count += 1
            labels = "; ".join(label for label, _ in items)
            try:
                figure = plot(dict(items))
                svg = inline(figure, f"{self._prefix}{self._count}-", caption, themed=themed)
                said = caption if len(items) > 1 else f"{labels}. {caption}"
                self.blocks.append(Picture(svg, said, themed))
            except Exception as error:  # somebody else's data: the rest of the page is shown
                reason = f"{type(error).__name__}: {error}"
                line = plain(f"The analysis of {labels} cannot be drawn ({reason}).")
                self.blocks.append(Words([line], "warning"))
        if len(results) > len(shown):
            line = f"Drawn are {len(shown)} of {len(results)}; the others are beside their runs."
            self.blocks.append(Words([line]))


def _spectrum_table(all_: Iterable[Analysed], prefix: str) -> Table:
    rows = [
        [
            Cell(one.label),
            Cell(", ".join(its.tasks)),
            number(its.lambda_max),
            number(its.lambda_ratio),
            number(its.trace),
            number(its.trace_error, ".2g"),
            number(its.parameters, "d"),
        ]
        for one in all_
        if isinstance(its := one.result, Spectrum) and its.eigenvalues
    ]
    heads = ["run", "loss of", "λ_max", "λ_max / λ_5", "trace", "its standard error", "parameters"]
    return Table(f"{prefix}-spectra", "Hessian spectra", heads, rows)
