"""The papers to cite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ... import Engine, aggregation
from ..._citation import bibtex
from ...records.scan import Findings
from ...training import PRESETS, perturbation
from ._blocks import Code, Section, Words
from ._groups import Group

_PAPERS = {"SAMO": "ban2025samo", "F-MTL": "phan2022fmtl"}


def citations(found: Findings, groups: Sequence[Group]) -> Iterator[Section]:
    """Lists the papers behind the methods, presets and quoted results of all runs."""
    used = {(r.config["method"], r.config["sharpness"], _adaptive(r.config)) for r in found.runs}
    entries: dict[str, None] = {}
    unknown: set[str] = set()
    for method, preset, adaptive in sorted(used):
        try:
            entries |= _entries(bibtex(aggregation.describe(method).references))
        except ValueError:
            unknown.add(method)
        if preset in PRESETS:
            entries |= _entries(_preset(preset, adaptive=adaptive))
        else:
            unknown.add(preset)
    sources = [source for group in groups for source in group.sources]
    for paper, key in _PAPERS.items():
        if any(source.startswith(f"{paper},") for source in sources):
            entries |= _entries(bibtex([key]))
    said = ["The papers behind the methods and presets of these runs."]
    if unknown:
        names = ", ".join(sorted(unknown))
        said.append(f"Not part of this package, so without an entry: {names}.")
    if used:
        text = "\n\n".join(entries)
        yield Section("citation", "Citation", [Words(said), Code(text, "BibTeX")])


def _adaptive(config: dict[str, object]) -> bool:
    options = config.get("sharpness_options")
    return isinstance(options, dict) and options.get("adaptive") is True


def _entries(text: str) -> dict[str, None]:
    return dict.fromkeys(entry for entry in text.split("\n\n") if entry)


def _preset(name: str, *, adaptive: bool) -> str:
    """The engine's citation with this preset."""
    options = {"adaptive": True} if adaptive and "adaptive" in PRESETS[name].options else {}
    perturb, decompose = perturbation(name, 0.05, options)
    engine = Engine(
        nn.Linear(1, 1), ["a", "b"], aggregator="ls", perturbation=perturb, decompose=decompose
    )
    return engine.citation()
