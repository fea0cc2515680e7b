"""Compares all presets with a random control on overlapping articles of Fashion-MNIST.

    python benchmarks/overlaid.py --data DIR --runs runs/multifashion --jobs 2

DIR contains ``fashion_mnist/``. Trains two methods with every preset, the cheaper estimators and
the control on five seeds. The first two seeds are trained with every ρ of a common grid, the others
with the ρ that is best on the validation data of these two. The table has the runs with this ρ.
Repeat an interrupted command to continue. ``estimators_accuracy.py`` adds the cost of a step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from samo.report import read, summarize, write
from samo.training import Cell, compare, plan

RESULTS = Path(__file__).parent / "results" / "multifashion"
SHARPNESS = ("erm", "gsam", "lsam", "fmtl", "samo", "random", "previous", "last-layers")
GRID, SEEDS, CHOOSING = (0.05, 0.1, 0.2), 5, 2
PAIRS = {"network": "lenet", "pairs": 3000, "validation_pairs": 3000, "test_pairs": 10_000}


def main() -> None:
    """Trains the missing runs, and writes tables and figures."""
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
    for figure in in_two_stages(cells, asked.runs, RESULTS, asked.jobs):
        print(figure)


def in_two_stages(cells: list[Cell], runs: Path, results: Path, jobs: int) -> list[Path]:
    """Trains every ρ on the first seeds and the best on the others, and writes the results."""
    _train([cell for cell in cells if cell.config.seed < CHOOSING], runs, jobs)
    chosen = {(row.method, row.sharpness): row.rho for row in summarize(read(runs)).rows}
    _train([c for c in cells if c.config.rho in {None, chosen[_arm(c)]}], runs, jobs)
    grid = sorted({cell.config.rho for cell in cells if cell.config.rho is not None})
    remark = (
        f"ρ out of {grid} by the validation score of seeds 0 to {CHOOSING - 1}; the other "
        f"seeds are trained at that ρ alone."
    )
    results.mkdir(parents=True, exist_ok=True)
    return write(summarize(read(runs), remarks=(remark,)), results)


def _train(cells: list[Cell], runs: Path, jobs: int) -> None:
    if failures := compare(cells, runs, jobs=jobs):
        raise SystemExit("\n".join(f"{path}: {why}" for path, why in failures.items()))


def _arm(cell: Cell) -> tuple[str, str]:
    return cell.config.method, cell.config.sharpness


if __name__ == "__main__":
    main()
