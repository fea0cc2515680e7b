"""The results of `samo analyze` in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from ...analysis import Spectrum
from ._table import Cell, Table, cell

Loaded = Mapping[str, Any]
"""The results of a run by the names of their files."""


def analyses_tables(runs: Mapping[str, Loaded]) -> Iterator[Table]:
    """Creates a table per kind of analysis, with a row per run; for a single run, more tables."""
    for title, numbers in _NUMBERS.items():
        rows = {name: numbers(results) for name, results in runs.items()}
        if heads := list(dict.fromkeys(head for row in rows.values() for head in row)):
            cells = [
                [Cell(n), *(row.get(head, Cell()) for head in heads)] for n, row in rows.items()
            ]
            yield Table(title, ["run", *heads], cells)
    if len(runs) == 1:
        yield from _by_task(*runs.values())


def _spectrum(results: Loaded) -> dict[str, Cell]:
    if not (spectrum := results.get("spectrum")):
        return {}
    trace = f"{spectrum.trace:.4g} ± {spectrum.trace_error:.2g}"
    return {
        "λ_max": cell(spectrum.lambda_max, ".4g"),
        "λ_max/λ_5": cell(spectrum.lambda_ratio, ".3g"),
        "trace": Cell(trace, spectrum.trace),
    }


def _cosines(results: Loaded) -> dict[str, Cell]:
    if not (cosines := results.get("cosines")):
        return {}
    pairs = [cosines.matrix[i][j] for i in range(len(cosines.tasks)) for j in range(i)]
    return {
        "mean cosine": cell(fmean(pairs), ".3f"),
        # None if no two tasks have a batch in common
        "conflicts": cell(cosines.batch_conflicts, ".0%"),
        "norm balance": cell(cosines.balance, ".2f"),
    }


def _sharpness(results: Loaded) -> dict[str, Cell]:
    ways = {"sharpness": "along own gradients", "sharpness-global": "along the mean gradient"}
    return {
        f"{way} (ρ = {sharp.rho:g})": cell(fmean(sharp.sharpness), ".3g")
        for name, way in ways.items()
        if (sharp := results.get(name))
    }


def _features(results: Loaded) -> dict[str, Cell]:
    features = results.get("features")
    return {"inter-cluster distance": cell(features.distance, ".2f")} if features else {}


_NUMBERS: Mapping[str, Callable[[Loaded], dict[str, Cell]]] = {
    "Hessian": _spectrum,
    "Task gradients, with respect to the shared parameters": _cosines,
    "Rise of the mean loss": _sharpness,
    "Features": _features,
}


def _by_task(results: Loaded) -> Iterator[Table]:
    """The tables of a single run, with a row per task or estimator."""
    if (cosines := results.get("cosines")) and len(cosines.tasks) <= 12:
        rows = [
            [Cell(task), *(cell(value, ".3f") for value in row), cell(norm, ".3g")]
            for task, row, norm in zip(cosines.tasks, cosines.matrix, cosines.norms, strict=True)
        ]
        yield Table("Task gradients", ["cosine", *cosines.tasks, "‖gradient‖"], rows)
    if sharp := results.get("sharpness"):
        rows = [
            [Cell(task), cell(loss, ".4g"), cell(rise, ".4g")]
            for task, loss, rise in zip(sharp.tasks, sharp.natural, sharp.sharpness, strict=True)
        ]
        yield Table(f"Sharpness at ρ = {sharp.rho:g}", ["task", "loss", "rise"], rows)
    if quality := results.get("estimators"):
        mean = cell(fmean(quality.mean_gradient.mean), ".3f")
        rows = [[Cell("mean gradient (α = 1)"), Cell(), mean]]
        for name, direction in quality.direction.items():
            epsilon = cell(fmean(quality.epsilon[name].mean), ".3f")
            rows.append([Cell(name), cell(fmean(direction.mean), ".4f"), epsilon])
        title = f"Cosine with the exact local gradient (d = {quality.parameters})"
        yield Table(title, ["estimator", "ĝ", f"ε, α = {quality.alpha:g}"], rows)


def spectra_table(spectra: Iterable[tuple[str, Spectrum]]) -> Table:
    """Creates the table of spectra by label."""
    rows = [
        [
            Cell(label),
            Cell(", ".join(one.tasks)),
            cell(one.lambda_max, ".4g"),
            cell(one.lambda_ratio, ".4g"),
            cell(one.trace, ".4g"),
            cell(one.trace_error, ".2g"),
            cell(one.parameters),
        ]
        for label, one in spectra
        if one.eigenvalues
    ]
    heads = ["run", "loss of", "λ_max", "λ_max / λ_5", "trace", "its standard error", "parameters"]
    return Table("Hessian spectra", heads, rows)
