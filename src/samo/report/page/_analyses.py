"""The results of `samo analyze`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ... import analysis
from ...analysis import AnalysisError, EstimatorQuality, Result, Spectrum
from ...records.foreign import UnusableError, parse, plain, read_text
from ...records.scan import Findings, FoundRun
from ...records.schema import preset_at
from ..figures import cosines, estimators, features, loss_planes, sharpness, spectrum
from ..tables import spectra_table
from ._blocks import Block, Words, picture
from ._groups import Group

_MOST = 12  # labels of a kind


@dataclass(frozen=True)
class Analysed:
    """A result of an analysis.

    Attributes:
        run: The run.
        name: Distinguishes it from others of its kind and run; mostly ``""``.
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
            words = [config["method"], preset_at(config["sharpness"], config["level"])]
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
    known = {one.kind: one for one in analysis.KINDS}
    if kind not in known:
        raise UnusableError(f"its kind must be one of {', '.join(known)}; found {kind!r}")
    if version != analysis.FORMAT:
        raise UnusableError(f"its format must be {analysis.FORMAT}; found {version!r}")
    return known[kind]._checked(content, file)


def _draw_estimators(found: Mapping[str, EstimatorQuality]) -> Figure:
    (one,) = found.values()
    return estimators(one)


_SPECTRUM = (
    "The largest eigenvalues of the Hessian of the loss: mean over the seeds, bars from the lowest "
    "to the highest. Flat minima have small ones."
)
_COSINES = (
    "The cosines between the tasks' gradients with respect to the shared parameters: blue pairs "
    "agree, red ones are in conflict. On the diagonal are the norms of the gradients."
)
_SHARPNESS = "The increase of each task's loss from the natural to the perturbed point."
_ESTIMATORS = "The cosine between estimated and exact local gradients, by task."
_LANDSCAPE = "The mean loss and that of each task on a plane through the weights. Dark is low."
_FEATURES = "Features as laid out by t-SNE, with the mean distance between clusters."


def analyses(group: Group, found: Findings, prefix: str) -> list[Block]:
    """Shows the analyses of a group's runs: figures, and the spectra in numbers."""
    results = [one for run in group.runs for one in _read(run, found)]
    pictures = partial(_pictures, results, prefix)
    numbers = [(one.label, one.result) for one in results if isinstance(one.result, Spectrum)]
    spectra = list(pictures(Spectrum, spectrum, _SPECTRUM, seeds=True, themed=True, abreast=6))
    return [
        *spectra,
        *([replace(spectra_table(numbers), id=f"{prefix}-spectra")] if spectra else []),
        *pictures(analysis.Cosines, cosines, _COSINES),
        *pictures(analysis.Sharpness, sharpness, _SHARPNESS, seeds=True, themed=True, abreast=6),
        *pictures(EstimatorQuality, _draw_estimators, _ESTIMATORS, themed=True, abreast=1),
        *pictures(analysis.Landscape, loss_planes, _LANDSCAPE, abreast=1),
        *pictures(analysis.Features, features, _FEATURES),
    ]


def _pictures(
    results: Iterable[Analysed],
    prefix: str,
    kind: type[Result],
    draw: Callable[[Any], Figure],
    caption: str,
    *,
    seeds: bool = False,
    themed: bool = False,
    abreast: int = 4,
) -> Iterator[Block]:
    """Draws the results of a kind, several to a figure; `seeds`: by arm with all seeds."""
    found: dict[str, Any] = {}
    for one in results:
        if isinstance(one.result, kind):
            if seeds:
                found.setdefault(one.arm, []).append(one.result)
            else:
                found[one.label] = one.result
    labels = list(found)[:_MOST]
    for start in range(0, len(labels), abreast):
        shown = {label: found[label] for label in labels[start : start + abreast]}
        named, name = "; ".join(shown), f"{prefix}-analysis-{kind.kind}{start}"
        text = caption if len(shown) > 1 else f"{named}. {caption}"
        what = f"The analysis of {named}"
        yield from picture(partial(draw, shown), name, text, what, themed=themed)
    if len(found) > len(labels):
        yield Words([f"Drawn: {len(labels)} of {len(found)}; the others are next to their runs."])
