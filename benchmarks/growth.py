"""Measures how the cost of a step grows with the number K of tasks and m of shared parameters.

    python benchmarks/growth.py [--steps 3] [--most 100000000] [--out DIR]

The model is a perceptron with two hidden layers, the batch is 32, the method FairGrad. K is in
1..40 at m = 1 million; m ranges from 10 thousand to 100 million at K = 2. Each round measures all
points once, so that other load affects all equally. The fits are a straight line in K, and a power
of m where m is so large that arithmetic outweighs the overhead of operations. Repeat an interrupted
command to continue.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console

from samo.cost import Conditions, chosen, measure
from samo.records import write_text
from samo.report import save
from samo.report.figures.style import house_style, legend, look, panels

OUT = Path(__file__).parent / "results" / "growth"
INPUTS, BATCH = 64, 32
TASKS = (1, 2, 4, 8, 16, 24, 32, 40)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
K, M = 2, 1_000_000
POWER_FROM = 1_000_000
STEPS = ("erm", "gsam", "lsam", "fmtl", "samo", "samo-previous-gradient")
Point = tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        law: The formula as text.
        residual: The root mean square of the relative deviations of the measurements.
        at: Evaluates the law.
    """

    law: str
    residual: float
    at: Callable[[float], float]


def width(m: int) -> int:
    """Returns the hidden width for about m parameters in the trunk: w² + (inputs + 2) w = m."""
    half = (INPUTS + 2) / 2
    return round(math.sqrt(half**2 + m) - half)


def wanted(tasks: int, m: int, threads: int) -> Conditions:
    """Returns the conditions of a point."""
    numbers = {"tasks": tasks, "batch": BATCH, "inputs": INPUTS, "width": width(m)}
    return Conditions("mlp", "custom", numbers, "fairgrad", "cpu", threads)


def straight(points: Sequence[Point], unit: str) -> Fit:
    """Fits a + b K to the relative deviations."""
    x, y = np.array(points, dtype=float).T
    design = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (a, b), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    residual = float(np.sqrt(np.mean(((a + b * x) / y - 1) ** 2)))
    return Fit(
        f"{a:.3g} {'+' if b >= 0 else '−'} {abs(b):.3g} K {unit}", residual, lambda k: a + b * k
    )


def power(points: Sequence[Point]) -> Fit:
    """Fits c m^p to the points with large m, or to all points if fewer than two are large."""
    large = [point for point in points if point[0] >= 0.9 * POWER_FROM]
    x, y = np.array(large if len(large) > 1 else points, dtype=float).T
    p, c = np.polyfit(np.log(x), np.log(y), 1)
    residual = float(np.sqrt(np.mean((np.exp(c) * x**p / y - 1) ** 2)))
    return Fit(f"m^{p:.2f}", residual, lambda m: float(np.exp(c) * m**p))


def series(
    results: Sequence[dict[str, Any]], step: str, key: str, value: Callable[[Any], float]
) -> list[Point]:
    """Returns a step's costs by the number of tasks, or by the shared parameters."""
    found = []
    for result in results:
        at = result["setting"]["numbers"]["tasks"] if key == "K" else result["shared_parameters"]
        entry = result["steps"][step]
        scale = result["shared_parameters"] if key == "K" else 1
        found.append((float(at), value({**entry, "scale": scale})))
    return found


def milliseconds(entry: Any) -> float:
    """Returns the median time."""
    return 1e3 * float(np.median(entry["seconds"]))


def numbers(entry: Any) -> float:
    """Returns the peak memory in float32 numbers; per shared parameter in the series over K."""
    return float(entry["peak_bytes"]) / 4 / float(entry["scale"])


def fits(by_k: Sequence[dict[str, Any]], by_m: Sequence[dict[str, Any]]) -> dict[str, list[Fit]]:
    """Fits the four laws of each step: time and memory, by K and by m."""
    return {
        step: [
            straight(series(by_k, step, "K", milliseconds), "ms"),
            straight(series(by_k, step, "K", numbers), "m"),
            power(series(by_m, step, "m", milliseconds)),
            power(series(by_m, step, "m", numbers)),
        ]
        for step in STEPS
    }


def figure(by_k: Sequence[dict[str, Any]], by_m: Sequence[dict[str, Any]]) -> Figure:
    """Plots measurements as marks and fits as lines."""
    laws = fits(by_k, by_m)
    sweeps = [
        (by_k, "K", milliseconds, "time of a step (ms)"),
        (by_k, "K", numbers, "peak memory (m numbers)"),
        (by_m, "m", milliseconds, "time of a step (ms)"),
        (by_m, "m", numbers, "peak memory (numbers)"),
    ]
    with house_style():
        drawn, axes = panels(2, 2, height=2.4)
        for i, (results, key, value, label) in enumerate(sweeps):
            axis: Axes = axes.flat[i]
            for step in STEPS:
                points = series(results, step, key, value)
                style = look("random" if "previous" in step else step)
                axis.plot(*zip(*points, strict=True), style.marker, color=style.colour)
                x = np.array([p[0] for p in points if key == "K" or p[0] >= POWER_FROM * 0.9])
                line = [laws[step][i].at(at) for at in x]
                axis.plot(x, line, color=style.colour, linestyle=style.line, linewidth=1.2)
            axis.set(xlabel="tasks K" if key == "K" else "shared parameters m", ylabel=label)
            if key == "m":
                axis.set(xscale="log", yscale="log")
            else:
                axis.set_xlim(left=0)
                axis.set_ylim(bottom=0)
        axes[0, 0].set_title(f"m = {M:,}")
        axes[1, 0].set_title(f"K = {K}")
        handles = []
        for step in STEPS:
            style = look("random" if "previous" in step else step)
            kind = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
            handles.append(Line2D([], [], label=step, **kind))
        legend(drawn, handles)
    return drawn


def markdown(by_k: Sequence[dict[str, Any]], by_m: Sequence[dict[str, Any]]) -> str:
    """Formats the laws and the measurements in Markdown."""
    machine = by_k[0]["machine"]
    threads, rounds = by_k[0]["setting"]["threads"], len(by_k[0]["steps"]["erm"]["seconds"])
    lines = [
        f"A perceptron with two hidden layers, batch {BATCH}, fairgrad; medians of {rounds} "
        f"rounds. By K: m = {by_k[0]['shared_parameters']:,}; by m: K = {K}, fitted from m = "
        f"{POWER_FROM:,}. In brackets: the root mean square of the relative deviations from the "
        "fit.",
        "",
        f"{machine['cpu']}, {threads} of {machine['cores']} cores, torch {machine['torch']}, "
        f"commit {machine['commit']}.",
        "",
        "| step | time by K | memory by K | time by m | memory by m |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for step, laws in fits(by_k, by_m).items():
        cells = " | ".join(f"{fit.law} ({fit.residual:.1%})" for fit in laws)
        lines.append(f"| {step} | {cells} |")
    for results, key in ((by_k, "K"), (by_m, "m")):
        points = [int(x) for x, _ in series(results, "erm", key, milliseconds)]
        header = " | ".join(f"{key} = {point:,}" for point in points)
        lines += ["", f"| ms, GB | {header} |", "| --- |" + " ---: |" * len(points)]
        for step in STEPS:
            entries = [result["steps"][step] for result in results]
            cells = " | ".join(
                f"{milliseconds(e):.3g}, {e['peak_bytes'] / 1e9:.2g}" for e in entries
            )
            lines.append(f"| {step} | {cells} |")
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[dict[str, Any]]) -> str:
    """Formats all measurements as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["tasks", "shared_parameters", "step", "milliseconds", "peak_bytes"])
    for result in results:
        start = [result["setting"]["numbers"]["tasks"], result["shared_parameters"]]
        for step, entry in result["steps"].items():
            writer.writerow([*start, step, f"{milliseconds(entry):.6g}", entry["peak_bytes"]])
    return file.getvalue()


def main() -> None:
    """Runs the measurements, fits the laws, and writes tables and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3, help="timings of each step")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest m")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT, help="the directory of the results")
    given = parser.parse_args()
    console, subjects = Console(), chosen(STEPS, "fairgrad")
    by_k = [(tasks, M) for tasks in TASKS]
    by_m = [(K, m) for m in SIZES if m <= given.most]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for number in range(given.steps):
        for tasks, m in dict.fromkeys([*by_k, *by_m]):
            file = given.out / "measured" / f"K{tasks}-m{m}.json"
            what = wanted(tasks, m, given.threads)
            found[tasks, m] = measure(what, subjects, file, steps=number + 1)
            console.print(f"round {number + 1}/{given.steps}: K = {tasks}, m = {m:,}")
    rows_k, rows_m = [found[at] for at in by_k], [found[at] for at in by_m]
    table, data = markdown(rows_k, rows_m), as_csv(list(found.values()))
    write_text(given.out / "table.md", table)
    write_text(given.out / "table.csv", data)
    for kind in ("png", "svg"):
        save(figure(rows_k, rows_m), given.out / f"growth.{kind}")
    print(table)


if __name__ == "__main__":
    main()
