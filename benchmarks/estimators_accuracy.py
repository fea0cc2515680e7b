"""What the estimators are worth: test accuracy on real images, against what a step costs.

    python benchmarks/estimators_accuracy.py --data DIR --runs DIR [--seeds 5] [--jobs 2]
    python benchmarks/estimators_accuracy.py --data DIR --runs DIR --report-only

A comparison on `multifashion`, as ``samo compare`` makes it and in its directory format: it can be
interrupted, and runs that are in the directory already are not made again. Then one table (accuracy
at the ρ that validation data chose, differences paired by seed, cost) and one plot of accuracy
against cost. The data directory is the one with ``fashion_mnist/`` in it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from estimators import ARMS, OUT, cost, write_text  # type: ignore[import-not-found]

from samo.report import Row, Spread, read, summarize
from samo.report.style import house_style, look, panels
from samo.training import compare, plan
from samo.training._files import read_json, write_atomically
from samo.training._workers import Event

COMPARED = ("erm", "gsam", "lsam", "fmtl", "samo", "random", "previous", "last-layers")


def train(arguments: argparse.Namespace) -> None:
    """Trains what is not trained yet."""
    sizes = {"pairs": 3000, "validation_pairs": 3000, "test_pairs": 10000}
    cells = plan(
        "multifashion",
        arguments.methods.split(","),
        arguments.sharpness.split(","),
        [float(rho) for rho in arguments.rho.split(",")],
        arguments.seeds,
        epochs=arguments.epochs,
        batch_size=64,
        lr=1e-3,
        benchmark_options={
            "network": "lenet",
            **sizes,
            **_sizes(arguments),
            "data": str(arguments.data),
        },
    )

    def tell(event: Event) -> None:
        if event.ended:
            print(event.cell.path, flush=True)

    failures = compare(cells, arguments.runs, jobs=arguments.jobs, watch=tell)
    if failures:
        raise SystemExit(f"failed: {failures}")


def _sizes(arguments: argparse.Namespace) -> dict[str, int]:
    """Smaller data, for a trial."""
    if arguments.pairs is None:
        return {}
    return {"pairs": arguments.pairs, "validation_pairs": 100, "test_pairs": 100}


def report(runs: Path, out: Path, data: Path) -> None:
    """One table and one plot: accuracy, paired differences, and the cost of a step."""
    rows = [row for row in summarize(read(runs)).rows if row.method != "stl" and row.average]
    by_arm = {(row.method, row.sharpness): row for row in rows}
    methods = list(dict.fromkeys(row.method for row in rows))
    presets = list(dict.fromkeys(row.sharpness for row in rows))
    file = out / "cost-multifashion.json"
    if not file.exists():
        cost("multifashion", data, 30, [p for p in presets if p in ARMS], out)
    costs: dict[str, dict[str, float]] = {
        method: {arm: statistics.median(values) for arm, values in found.items()}
        for method, found in read_json(file).items()
    }
    against = ("erm", "gsam", "random")
    lines = [
        "Test accuracy on `multifashion` (3,000 pairs, LeNet), %, mean of both corners; ρ chosen "
        "on validation data. Differences are of the same method and seed: mean and 95 % confidence "
        "interval (Student's t over the seeds; in the lines of all, the methods' differences of a "
        "seed are averaged first).",
        "",
        "| method | sharpness | ρ | accuracy | seeds | "
        + " | ".join(f"against {a}" for a in against)
        + " | step / erm |",
        "| --- " * (6 + len(against)) + "|",
    ]
    for method in [*methods, "all"]:
        for preset in presets:
            chosen = methods if method == "all" else [method]
            arms = [by_arm[m, preset] for m in chosen if (m, preset) in by_arm]
            if len(arms) < len(chosen):
                continue
            differences = [_difference(by_arm, chosen, preset, other) for other in against]
            average = statistics.fmean(v for arm in arms for v in _values(arm).values())
            rho = ", ".join(f"{arm.rho:g}" for arm in arms if arm.rho is not None) or "–"
            ratio = statistics.fmean(costs.get(m, {}).get(preset, float("nan")) for m in chosen)
            seeds = min(len(arm.runs) for arm in arms)
            cells = [f"{average:.2f}", str(seeds), *differences, f"{ratio:.2f}"]
            lines.append("| " + " | ".join([method, preset, rho, *cells]) + " |")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "accuracy.md", lines)
    _plot(by_arm, methods, presets, costs, out / "accuracy.png")


def _values(row: Row) -> dict[int, float]:
    assert row.average is not None
    seeds = [run["config"]["seed"] for run in row.runs]
    return dict(zip(seeds, row.average.values, strict=True))


def _difference(
    by_arm: Mapping[tuple[str, str], Row], methods: Sequence[str], preset: str, other: str
) -> str:
    pairs = [(by_arm.get((m, preset)), by_arm.get((m, other))) for m in methods]
    values = [(_values(one), _values(two)) for one, two in pairs if one and two]
    if preset == other or len(values) < len(methods):
        return "–"
    seeds = sorted(set.intersection(*(set(v) for pair in values for v in pair)))
    if not seeds:
        return "–"
    spread = Spread(tuple(statistics.fmean(a[s] - b[s] for a, b in values) for s in seeds))
    return f"{spread.mean:+.2f}" + ("" if spread.interval is None else f" ± {spread.interval:.2f}")


def _plot(
    by_arm: Mapping[tuple[str, str], Row],
    methods: Sequence[str],
    presets: Sequence[str],
    costs: Mapping[str, Mapping[str, float]],
    file: Path,
) -> None:
    with house_style():
        figure, axes = panels(1, len(methods), sharey=True, height=2.8)
        for axis, method in zip(axes[0], methods, strict=True):
            for preset in presets:
                row, style = by_arm.get((method, preset)), look(preset)
                ratio = costs.get(method, {}).get(preset)
                if row is None or row.average is None or ratio is None:
                    continue
                axis.errorbar(
                    ratio,
                    row.average.mean,
                    yerr=row.average.interval or 0.0,
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
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--methods", default="ls,fairgrad")
    parser.add_argument("--sharpness", default=",".join(COMPARED))
    parser.add_argument("--rho", default="0.05,0.1,0.2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pairs", type=int, help="fewer training pairs, for a trial")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report-only", action="store_true")
    given = parser.parse_args()
    if not given.report_only:
        train(given)
    report(given.runs, given.out, given.data)


if __name__ == "__main__":
    main()
