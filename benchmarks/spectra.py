"""Hessian spectra of digits with and without a perturbation, as in Table 1 of the SAMO paper.

    python benchmarks/spectra.py

Trains digits with the method ls until the training loss stops decreasing, without a perturbation
(ERM) and with one along the mean gradient (GSAM), from the same weights and on the same batches. At
three points of training it measures on the training data: the Hessian's λ_max, λ_max/λ_5 and trace
(of the mean loss, over all parameters), the sharpness, and the cosine of the two tasks' gradients;
and on the test data, the accuracy. The network has no normalisation, as in the paper.

Measurements are stored in runs/spectra, so that a repeated command continues an interrupted one;
tables and figures are written to benchmarks/results/spectra.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from samo import Perturbation, report
from samo.analysis import Cosines, Spectrum, gradient_cosines, hessian_spectrum, sharpness
from samo.records import read_json, write_json, write_text
from samo.training import RunConfig
from samo.training._run import Run
from samo.training._seeding import seeded

ARMS = {"erm": None, "gsam": 0.2}
SEEDS = (0, 1, 2)
POINTS = (20, 100, 200)
RUNS = Path("runs/spectra")
RESULTS = Path(__file__).parent / "results" / "spectra"
COLUMNS = {
    "train_loss": ("training loss", ".2g"),
    "accuracy": ("test accuracy (%) ↑", ".2f"),
    "lambda_max": ("λ_max", ".3g"),
    "lambda_ratio": ("λ_max/λ_5", ".3g"),
    "trace": ("trace", ".3g"),
    "sharpness": ("increase at ρ = 0.2", ".3g"),
    "cosine": ("cosine of the task gradients", ".3f"),
}


def main() -> None:
    """Takes the missing measurements, and writes tables and figures."""
    for seed in SEEDS:
        for arm in ARMS:
            if not _file(arm, seed, POINTS[-1]).exists():
                _train(arm, seed)
    _write()


def _file(arm: str, seed: int, epoch: int) -> Path:
    return RUNS / f"{arm}-{seed}" / f"{epoch}.json"


def _train(arm: str, seed: int) -> None:
    config = RunConfig(
        benchmark="digits",
        method="ls",
        sharpness=arm,
        rho=ARMS[arm],
        epochs=POINTS[-1],
        batch_size=64,
        lr=3e-3,
        weight_decay=0.0,
        optimizer="adam",
        schedule="constant",
        seed=seed,
    )
    with seeded(config.seed, config.threads):
        run = Run(config)
        for epoch in range(1, POINTS[-1] + 1):
            # No evaluation after each epoch, which would take longer than training.
            run.model.train()
            for batch in run.training_data:
                run._step(batch)
            if epoch in POINTS:
                file = _file(arm, seed, epoch)
                file.parent.mkdir(parents=True, exist_ok=True)
                found = _measured(run, file)
                write_json(file, found)
                print(arm, seed, epoch, json.dumps(found), flush=True)


def _measured(run: Run, file: Path) -> dict[str, float | None]:
    def losses(batch: Any, tasks: Any) -> Any:
        return run.benchmark.losses(run.model, batch, tasks)

    data = list(run.benchmark.batches("train", run.tasks, 500))
    spectrum = hessian_spectrum(run.model, losses, data, run.tasks)
    spectrum.save(_beside(file, "spectrum"))
    cosines = gradient_cosines(run.model, losses, data, run.tasks)
    cosines.save(_beside(file, "cosines"))
    rise = sharpness(run.model, losses, data, run.tasks, Perturbation(0.2, alpha=1))
    test, _ = run.evaluate("test")
    return {
        "train_loss": statistics.fmean(rise.natural),
        "accuracy": statistics.fmean(scores["accuracy"] for scores in test.values()),
        "lambda_max": spectrum.lambda_max,
        "lambda_ratio": spectrum.lambda_ratio,
        "trace": spectrum.trace,
        "sharpness": statistics.fmean(rise.sharpness),
        "cosine": cosines.matrix[0][1],
    }


def _write() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {
        (arm, epoch): [read_json(_file(arm, seed, epoch)) for seed in SEEDS]
        for epoch in POINTS
        for arm in ARMS
    }
    lines = [["epoch", "sharpness", *(heading for heading, _ in COLUMNS.values())]]
    lines.append(["---:", "---", *["---:"] * len(COLUMNS)])
    for (arm, epoch), seeds in found.items():
        cells = [_cell([seed[name] for seed in seeds], form) for name, (_, form) in COLUMNS.items()]
        lines.append([str(epoch), arm, *cells])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    note = (
        f"\ndigits, method ls, Adam at 3e-3, no clipping, {POINTS[-1]} epochs; gsam at ρ = "
        f"{ARMS['gsam']}. Mean ± standard deviation over {len(SEEDS)} seeds. Hessian, increase of "
        f"the loss along the mean gradient and cosine on all 1,500 training pairs, accuracy on "
        f"test data, at the end of the given epoch. Made by `python benchmarks/spectra.py` on a "
        f"shared CPU machine ({platform.machine()}, {os.cpu_count()} processors, torch "
        f"{torch.__version__}, one thread).\n"
    )
    write_text(RESULTS / "table.md", table + note)
    write_text(RESULTS / "runs.csv", _runs_csv(found))
    _draw()


def _cell(values: list[float | None], form: str) -> str:
    if any(value is None for value in values):
        return "–"
    numbers = [value for value in values if value is not None]
    return f"{statistics.fmean(numbers):{form}} ± {statistics.stdev(numbers):{form}}"


def _runs_csv(found: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["epoch", "sharpness", "seed", *COLUMNS])
    for (arm, epoch), seeds in found.items():
        for seed, values in zip(SEEDS, seeds, strict=True):
            writer.writerow([epoch, arm, seed, *(values[name] for name in COLUMNS)])
    return text.getvalue()


def _draw() -> None:
    """Plots spectra at each point of training, and cosines at its end, of the first seed."""
    for epoch in POINTS:
        spectra = {
            arm: [Spectrum.load(_beside(_file(arm, s, epoch), "spectrum")) for s in SEEDS]
            for arm in ARMS
        }
        report.save(report.spectrum(spectra), RESULTS / f"spectrum-{epoch}.svg")
    cosines = {
        arm: Cosines.load(_beside(_file(arm, SEEDS[0], POINTS[-1]), "cosines")) for arm in ARMS
    }
    report.save(report.cosines(cosines), RESULTS / "cosines.svg")


def _beside(file: Path, kind: str) -> Path:
    return file.with_name(f"{kind}-{file.name}")


if __name__ == "__main__":
    main()
