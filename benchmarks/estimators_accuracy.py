"""Compares the estimators: test accuracy on real images against the cost of a step.

    python benchmarks/estimators_accuracy.py --runs runs/multifashion

From the runs of ``overlaid.py`` and the costs of ``estimators.py cost``, makes one table (accuracy
with the ρ selected on validation data, differences paired by seed, cost) and one plot of accuracy
against cost.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from estimators import OUT, write_text  # type: ignore[import-not-found]

from samo.records import read_json, write_atomically
from samo.report import Row, Spread, read, summarize
from samo.report.figures.style import house_style, look, panels
from samo.report.summary import by_seed
from samo.report.tables import format_difference

Arms = Mapping[tuple[str, str], Row]
Costs = Mapping[str, Mapping[str, float]]
AGAINST = ("erm", "gsam", "random")


def report(runs: Path, out: Path) -> None:
    """Writes table and plot: accuracy, paired differences, and the cost of a step."""
    rows = [row for row in summarize(read(runs)).rows if row.method != "stl"]
    if any(row.unfinished for row in rows):
        raise SystemExit(f"{runs} is not finished: run benchmarks/overlaid.py first.")
    arms = {(row.method, row.sharpness): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    presets = list(dict.fromkeys(row.sharpness for row in rows))
    costs = {
        method: {arm: statistics.median(ratios) for arm, ratios in found.items()}
        for method, found in read_json(out / "cost-multifashion.json").items()
    }
    lines = [
        "Test accuracy on `multifashion` (3,000 pairs, LeNet), %, mean of both corners; ρ selected "
        "on validation data. Differences are of the same method and seed: mean and 95 % confidence "
        "interval (Student's t over the seeds; in the lines of all, the differences of a seed "
        "are first averaged over the methods).",
        "",
        "| method | sharpness | ρ | accuracy | seeds | "
        + " | ".join(f"against {other}" for other in AGAINST)
        + " | step / erm |",
        "| --- " * (6 + len(AGAINST)) + "|",
    ]
    for label, chosen in [*((method, [method]) for method in methods), ("all", methods)]:
        for preset in presets:
            cells = [label, preset, *_cells(arms, costs, chosen, preset)]
            lines.append(f"| {' | '.join(cells)} |")
    write_text(out / "accuracy.md", lines)
    _plot(arms, methods, presets, costs, out / "accuracy.png")


def _cells(arms: Arms, costs: Costs, methods: Sequence[str], preset: str) -> list[str]:
    rows = [arms[method, preset] for method in methods]
    pairs = {other: [(arms[m, preset], arms[m, other]) for m in methods] for other in AGAINST}
    return [
        ", ".join(f"{row.rho:g}" for row in rows if row.rho is not None) or "–",
        f"{statistics.fmean(_average(row).mean for row in rows):.2f}",
        str(min(len(row.runs) for row in rows)),
        *("–" if o == preset else format_difference(by_seed(pairs[o], "average")) for o in AGAINST),
        f"{statistics.fmean(costs[method][preset] for method in methods):.2f}",
    ]


def _average(row: Row) -> Spread:
    assert row.average is not None
    return row.average


def _plot(
    arms: Arms, methods: Sequence[str], presets: Sequence[str], costs: Costs, file: Path
) -> None:
    with house_style():
        figure, axes = panels(1, len(methods), sharey=True, height=2.8)
        for axis, method in zip(axes[0], methods, strict=True):
            for preset in presets:
                average, style = _average(arms[method, preset]), look(preset)
                axis.errorbar(
                    costs[method][preset],
                    average.mean,
                    yerr=average.interval or 0.0,
                    color=style.colour,
                    marker=style.marker,
                    linestyle="none",
                    capsize=2.5,
                    label=preset,
                )
            axis.set_title(method)
            axis.set_xlabel("time of a step / erm")
        axes[0, 0].set_ylabel("test accuracy (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        write_atomically(file, lambda beside: figure.savefig(beside, format="png"))


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/multifashion"))
    parser.add_argument("--out", type=Path, default=OUT, help="the directory of the costs")
    given = parser.parse_args()
    report(given.runs, given.out)


if __name__ == "__main__":
    main()
