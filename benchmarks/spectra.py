"""Is a sharpness-aware minimum flatter? Hessian spectra of digits, as Table 1 of the SAMO paper.

    python benchmarks/spectra.py

Trains digits with the method ls until the training loss no longer falls, without a perturbation
(ERM) and with one along the mean gradient (GSAM), from the same weights and on the same batches. At
three points of training it measures, on the training data: the Hessian's λ_max, λ_max/λ_5 and trace
(of the mean loss, over all parameters), the sharpness, and the cosine of the two tasks' gradients;
and the accuracy on test data. The network has no normalisation, as in the paper.

What is measured is kept in runs/spectra, so that an interrupted call goes on; tables and the figure
are written to benchmarks/results/spectra.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from samo import Perturbation
from samo.analysis import gradient_cosines, hessian_spectrum, sharpness
from samo.report import cosines as draw_cosines
from samo.report import spectrum_course
from samo.training import RunConfig, RunError
from samo.training._files import write_atomically, write_json
from samo.training._run import Run
from samo.training._train import _apart

ARMS = {"erm": None, "gsam": 0.2}
SEEDS = (0, 1, 2)
POINTS = (20, 100, 200)
RUNS = Path("runs/spectra")
RESULTS = Path(__file__).parent / "results" / "spectra"
COLUMNS = {
    "train_loss": ("training loss", ".2e"),
    "accuracy": ("test accuracy (%) ↑", ".2f"),
    "lambda_max": ("λ_max", ".3g"),
    "lambda_ratio": ("λ_max/λ_5", ".3g"),
    "trace": ("trace", ".3g"),
    "sharpness": ("sharpness", ".2e"),
    "cosine": ("cosine", ".3f"),
}


def main() -> None:
    """Measures what is not there yet, and writes the tables and the figure."""
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
    with _apart(config):
        run = Run(config)
        while run.epoch < config.epochs:
            run.train_epoch()
            if run.epoch in POINTS:
                file = _file(arm, seed, run.epoch)
                file.parent.mkdir(parents=True, exist_ok=True)
                found = _measured(run, file.parent)
                write_json(file, found)
                print(arm, seed, run.epoch, json.dumps(found), flush=True)


def _measured(run: Run, out: Path) -> dict[str, float | None]:
    def losses(batch: Any, tasks: Any) -> Any:
        return run.benchmark.losses(run.model, batch, tasks)

    data = list(run.benchmark.batches("train", run.tasks, 500))
    spectrum = hessian_spectrum(run.model, losses, data, run.tasks)
    spectrum.save(out / f"spectrum-{run.epoch}.json")
    cosines = gradient_cosines(run.model, losses, data, run.tasks)
    cosines.save(out / f"cosines-{run.epoch}.json")
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


if __name__ == "__main__":
    main()
