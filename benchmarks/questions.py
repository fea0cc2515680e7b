"""Compares `TaskGroups` with the other presets on forty tasks, where its savings are largest.

    python benchmarks/questions.py --runs runs/questions --jobs 2

The data are pairs of overlapping digits, as in the benchmark ``digits``, with forty yes-or-no
questions: twenty for each corner, "is it one of these five digits?", drawn once. Trains FairGrad
with the presets and the control on five seeds, in the two stages of ``overlaid.py``.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import torch
from overlaid import in_two_stages  # type: ignore[import-not-found]

from samo.benchmarks.digits import Digits
from samo.report.tables import write_lines
from samo.training import plan

RESULTS = Path(__file__).parent / "results" / "questions"
SHARPNESS = ("erm", "gsam", "lsam", "samo", "groups", "random")
GRID, SEEDS, EACH = (0.05, 0.1, 0.2), 5, 20


def table(file: Path) -> list[str]:
    """Writes pictures and answers, one row per pair, and returns the questions."""
    digits = Digits()
    generator = torch.Generator().manual_seed(0)
    halves = [(0, *four) for four in combinations(range(1, 10), 4)]  # every split of the ten digits
    fives = {
        corner: [halves[i] for i in torch.randperm(len(halves), generator=generator)[:EACH]]
        for corner in digits.tasks
    }
    questions = [f"{c} in {''.join(map(str, five))}" for c in fives for five in fives[c]]
    lines: list[list[object]] = [
        ["part", *(f"pixel {i}" for i in range(digits.canvas**2)), *questions]
    ]
    for part in ("train", "validation", "test"):
        for x, *labels in digits.batches(part, digits.tasks, 1):
            answers = [
                "yes" if label.item() in five else "no"
                for corner, label in zip(digits.tasks, labels, strict=True)
                for five in fives[corner]
            ]
            lines.append([part, *(f"{value:.4f}" for value in x.flatten().tolist()), *answers])
    write_lines(file, lines)
    return questions


def main() -> None:
    """Trains the missing runs, and writes tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/questions"))
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()

    asked.runs.mkdir(parents=True, exist_ok=True)
    file = asked.runs.with_suffix(".csv")
    questions = table(file)
    cells = plan(
        "tabular",
        ("fairgrad",),
        SHARPNESS,
        GRID,
        SEEDS,
        stl=False,
        benchmark_options={
            "data": str(file),
            "tasks": questions,
            "split_column": "part",
            "width": 256,
        },
        epochs=20,
        batch_size=128,
        lr=3e-3,
    )
    for figure in in_two_stages(cells, asked.runs, RESULTS, asked.jobs):
        print(figure)


if __name__ == "__main__":
    main()
