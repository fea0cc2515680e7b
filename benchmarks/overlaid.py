"""Overlapping articles of Fashion-MNIST: do the presets help, and is it where they point?

    python benchmarks/overlaid.py --data DIR --runs runs/multifashion --jobs 2

DIR holds ``fashion_mnist/``. Two methods with every preset and the control, three seeds. For the
first two, every ρ of a grid is tried, the same for all; the third is trained at the ρ that is best
on the validation data of these two, and the table is of the runs at that ρ. An interrupted call
goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from samo.report import read, summarize, write
from samo.training import Cell, compare, plan
from samo.training._files import read_json

RESULTS = Path(__file__).parent / "results" / "multifashion"
SHARPNESS = ("erm", "gsam", "lsam", "fmtl", "samo", "random")
GRID, SEEDS, CHOOSING = (0.05, 0.1, 0.2), 3, 2
PAIRS = {"network": "lenet", "pairs": 3000, "validation_pairs": 3000, "test_pairs": 10_000}


def main() -> None:
    """Trains what is not there yet, and writes the tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the directory with fashion_mnist/")
    parser.add_argument("--runs", type=Path, default=Path("runs/multifashion"))
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()

    cells = plan(
        "multifashion",
        ("ls", "fairgrad"),
        SHARPNESS,
        GRID,
        SEEDS,
        benchmark_options={**PAIRS, "data": asked.data},
        epochs=20,
        batch_size=64,
        lr=1e-3,
    )
    _train([cell for cell in cells if cell.config.seed < CHOOSING], asked.runs, asked.jobs)
    chosen = _choose(cells, asked.runs)
    _train([c for c in cells if c.config.rho in {None, chosen[_arm(c)]}], asked.runs, asked.jobs)
    remark = (
        f"ρ out of {list(GRID)} by the validation score of seeds 0 to {CHOOSING - 1}; the other "
        f"seed is trained at that ρ alone."
    )
    RESULTS.mkdir(parents=True, exist_ok=True)
    for figure in write(summarize(read(asked.runs), remarks=(remark,)), RESULTS):
        print(figure)


def _train(cells: list[Cell], runs: Path, jobs: int) -> None:
    if failures := compare(cells, runs, jobs=jobs):
        raise SystemExit("\n".join(f"{path}: {why}" for path, why in failures.items()))


def _arm(cell: Cell) -> tuple[str, str]:
    return cell.config.method, cell.config.sharpness


def _choose(cells: list[Cell], runs: Path) -> dict[tuple[str, str], float | None]:
    """The ρ of each method and preset that is best on validation data."""
    scores: dict[tuple[str, str], dict[float | None, list[float]]] = defaultdict(dict)
    for cell in cells:
        if not cell.baseline and cell.config.seed < CHOOSING:
            selected = read_json(runs / cell.path / "results.json")["selected"]
            scores[_arm(cell)].setdefault(cell.config.rho, []).append(selected["score"])
    means = {
        arm: {rho: statistics.fmean(values) for rho, values in by_rho.items()}
        for arm, by_rho in scores.items()
    }
    return {arm: max(by_rho, key=by_rho.__getitem__) for arm, by_rho in means.items()}


if __name__ == "__main__":
    main()
