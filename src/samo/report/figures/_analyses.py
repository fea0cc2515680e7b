"""Spectra, cosines, sharpness, and the quality of estimators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...analysis import Cosines, EstimatorQuality, Sharpness, Spectrum
from .style import (
    MUTED,
    Look,
    entries,
    house_style,
    legend,
    lengths,
    looks,
    marks,
    panels,
    plain,
)

_CELLS = 10  # tasks up to which a cell has room for its number
# Vermilion for conflict, blue for agreement; the blue end is the lighter one in grey.
_COSINES = LinearSegmentedColormap.from_list("cosines", ["#a63c00", "#f7f7f7", "#56B4E9"])


@house_style()
def spectrum(spectra: Mapping[str, Spectrum | Sequence[Spectrum]]) -> Figure:
    """Draws the largest eigenvalues of Hessians, by their rank.

    The legend shows λ_max and, with five or more eigenvalues, λ_max / λ_5. Of several seeds the
    mean is drawn, with bars from the lowest to the highest.

    Args:
        spectra: A spectrum, or those of several seeds, by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none.
    """
    if not spectra:
        raise ValueError("spectra is empty: there is nothing to draw.")
    styles = looks(spectra)
    figure, axes = panels(1, 1, height=2.9)
    figure.set_figwidth(1.4 * figure.get_figwidth())
    axis, named = axes[0, 0], {}
    for i, (label, one) in enumerate(spectra.items()):
        seeds = [one] if isinstance(one, Spectrum) else list(one)
        n = min(len(s.eigenvalues) for s in seeds)
        values = np.array([s.eigenvalues[:n] for s in seeds], dtype=np.float64)
        aside = 0.06 * (i - (len(spectra) - 1) / 2)
        mean, ranks = values.mean(0), np.arange(1.0, n + 1) + aside
        bars = lengths(mean, values.min(0), values.max(0)) if len(values) > 1 else None
        line = {"linestyle": styles[label].line, "linewidth": 1.2}
        marks(axis, ranks, mean, styles[label], yerr=bars, **line)
        named[f"{label}: {_in_numbers(mean)}"] = styles[label]
    axis.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
    axis.set_xlabel("rank k")
    axis.set_ylabel("eigenvalue λ_k of the Hessian")
    axis.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, entries(named))
    return figure


def _in_numbers(mean: NDArray[np.float64]) -> str:
    ratio = f", λ_max / λ_5 = {mean[0] / mean[4]:.3g}" if len(mean) >= 5 and mean[4] > 0 else ""
    return f"λ_max = {mean[0]:.3g}{ratio}"


@house_style()
def cosines(found: Mapping[str, Cosines]) -> Figure:
    """Draws the cosines between the tasks' gradients as a heat map, a panel per label.

    Blue pairs agree, red ones are in conflict; if cells have no room for their number, those in
    conflict have a dot. The diagonal, which would be one throughout, shows the gradients' norms.

    Args:
        found: Cosines by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there are none.
    """
    if not found:
        raise ValueError("found is empty: there are no cosines to draw.")
    matrices = {label: _without_diagonal(one.matrix) for label, one in found.items()}
    largest = [float(np.nanmax(np.abs(m))) for m in matrices.values() if np.isfinite(m).any()]
    limit = max([0.1, *largest])
    figure, axes = panels(1, len(found), height=2.8)
    for axis, (label, one) in zip(axes[0], found.items(), strict=True):
        drawn = axis.imshow(matrices[label], cmap=_COSINES, vmin=-limit, vmax=limit)
        axis.set_title(plain(label))
        _cells(axis, one, matrices[label], limit)
    bar = figure.colorbar(drawn, ax=list(axes[0]), shrink=0.8, pad=0.02)
    bar.set_label("cosine of the task gradients")
    return figure


def _without_diagonal(matrix: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    found = np.array(matrix, dtype=np.float64)
    np.fill_diagonal(found, np.nan)
    return found


def _cells(axis: Axes, one: Cosines, matrix: NDArray[np.float64], limit: float) -> None:
    n = len(one.tasks)
    axis.grid(visible=False)
    axis.set_facecolor("#ececec")
    names = [plain(task) for task in one.tasks]
    if n > 2 * _CELLS:  # the names of every task would overlap
        names = [name if i % -(-n // (2 * _CELLS)) == 0 else "" for i, name in enumerate(names)]
    font = 8 if n <= _CELLS else 6.5
    axis.set_xticks(range(n), names, rotation=90 if n > 4 else 0, fontsize=font)
    axis.set_yticks(range(n), names, fontsize=font)
    axis.tick_params(length=0)
    conflicts = np.argwhere(matrix < 0)
    if n > _CELLS:
        size = 30.0 / n
        axis.plot(conflicts[:, 1], conflicts[:, 0], "o", color="black", markersize=size)
        return
    size = 8 if n <= 4 else 6.5 if n <= 7 else 5.5
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    for i in range(n):
        axis.text(i, i, f"‖g‖\n{one.norms[i]:.2g}", fontsize=size - 1, color=MUTED, **centred)
        for j in range(n):
            if i != j and np.isfinite(matrix[i, j]):
                text = f"{matrix[i, j]:.2f}".replace("-", "−")
                colour = "white" if matrix[i, j] < -0.6 * limit else "black"
                axis.text(j, i, text, fontsize=size, color=colour, **centred)


def sharpness(found: Mapping[str, Sharpness | Sequence[Sharpness]]) -> Figure:
    """Draws the increase of each task's loss at the perturbed point, a mark per label.

    Marks are means over the seeds, bars reach from the lowest to the highest.

    Args:
        found: Sharpness, or that of several seeds, by label.

    Returns:
        The figure.

    Raises:
        ValueError: If there is none.
    """
    if not found:
        raise ValueError("found is empty: there is no sharpness to draw.")
    seeds = {k: [s] if isinstance(s, Sharpness) else list(s) for k, s in found.items()}
    by_label = {
        label: _by_task(
            {t: p - n for t, p, n in zip(s.tasks, s.perturbed, s.natural, strict=True)} for s in of
        )
        for label, of in seeds.items()
    }
    rhos = sorted({s.rho for of in seeds.values() for s in of})
    at = ", ".join(f"{rho:g}" for rho in rhos)
    return _by_tasks({"": by_label}, f"perturbed − natural loss, ρ = {at}")


def estimators(found: EstimatorQuality) -> Figure:
    """Draws the cosines of estimates of local gradients with the exact gradients, by task.

    The left panel shows the estimates ĝ_i, the right one the perturbations ε_i computed from them
    and from the mean gradient g_0; g_0 itself is in both. Bars are one standard deviation over the
    batches; the band contains 95 % of random directions, ± 1.96 / √d for d parameters.

    Args:
        found: The estimators' quality.

    Returns:
        The figure.
    """
    titles = {"estimate ĝ": found.direction, f"perturbation ε, α = {found.alpha:g}": found.epsilon}
    shown = {
        title: {
            name: {
                task: (mean, mean - std, mean + std)
                for task, mean, std in zip(found.tasks, one.mean, one.std, strict=True)
            }
            for name, one in {"mean gradient": found.mean_gradient, **quality}.items()
        }
        for title, quality in titles.items()
    }
    band = 1.96 / np.sqrt(found.parameters)
    return _by_tasks(shown, "cosine with the exact local gradient", band)


_Mark = tuple[float, float, float]
"""A value and the ends of its bar."""


def _by_task(seeds: Iterable[Mapping[str, float]]) -> dict[str, _Mark]:
    values: dict[str, list[float]] = {}
    for seed in seeds:
        for task, value in seed.items():
            values.setdefault(task, []).append(value)
    return {task: (float(np.mean(v)), min(v), max(v)) for task, v in values.items()}


@house_style()
def _by_tasks(
    shown: Mapping[str, Mapping[str, Mapping[str, _Mark]]], label: str, band: float | None = None
) -> Figure:
    """Draws values by task, the labels side by side; a panel per title."""
    tasks = list(dict.fromkeys(t for values in shown.values() for v in values.values() for t in v))
    styles = looks(name for values in shown.values() for name in values)
    figure, axes = panels(1, len(shown), height=2.8, sharey=True)
    width = min(max(3.0, 0.5 + 0.16 * len(tasks) * (len(styles) + 1)), 12 / len(shown))
    figure.set_figwidth(len(shown) * width + 0.4)
    for axis, (title, values) in zip(axes[0], shown.items(), strict=True):
        axis.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        if band is not None:
            axis.axhspan(-band, band, color="#dddddd", linewidth=0, zorder=0)
        for i, (name, by_task) in enumerate(values.items()):
            aside = 0.7 / len(values) * (i - (len(values) - 1) / 2)
            middle, low, high = np.array(list(by_task.values())).T
            x = [tasks.index(task) + aside for task in by_task]
            marks(axis, x, middle, styles[name], yerr=lengths(middle, low, high))
        _name_tasks(axis, tasks, width)
        axis.set_title(title)
    axes[0, 0].set_ylabel(label)
    legend(figure, entries({name: Look(s.colour, s.marker, "") for name, s in styles.items()}))
    return figure


def _name_tasks(axis: Axes, tasks: Sequence[str], width: float) -> None:
    """Names the tasks below an axis of a width in inches."""
    crowded = sum(map(len, tasks)) * 0.08 > width - 0.8
    axis.set_xticks(range(len(tasks)), map(plain, tasks), rotation=90 if crowded else 0)
    axis.set_xlim(-0.5, len(tasks) - 0.5)
    axis.grid(visible=False, axis="x")
