"""Training loop of a run, resumable after an interruption."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..records import Log, RunError, write_json
from ..records.directory import RunDirectory
from ..records.schema import Results, validated
from ._config import RunConfig
from ._errors import as_run_error
from ._evaluate import Scores, average
from ._run import Progress, Record, Run, Watch
from ._seeding import seeded


def train(config: RunConfig, out: Path | str, *, watch: Watch | None = None) -> dict[str, Any]:
    """Trains a run, or resumes one that was interrupted.

    After each epoch the model is evaluated on validation data and the whole state is saved. A run
    that was killed resumes after the last complete epoch and ends with the same numbers, bit for
    bit, as an uninterrupted one. For a finished run, the saved results are returned.

    With `ema`, the weights averaged over the steps are scored beside the raw ones, each at its own
    best epoch. The raw scores are the same as without it.

    The epoch to report is the one with the best score on validation data (see
    `samo.benchmarks.Benchmark`). Test data is evaluated after training, with the weights of that
    epoch and of the last one. With `average_last` = n, the mean of the scores after each of the
    last n epochs is reported instead.

    Args:
        config: The configuration.
        out: The run's directory.
        watch: Called after each step and after each epoch.

    Returns:
        The content of ``results.json``: configuration, metrics, history by epoch, ``selected``
        (epoch, score, validation and test scores of the best epoch), ``last`` (those of the last
        one), ``averaged`` (the means over the last epochs, for a run that reports them), ``ema``
        (these three of the averaged weights, for a run that averages), timing, environment.

    Raises:
        RunError: If the settings do not fit together, the directory holds another run, or a
            checkpoint cannot be read.
        NonFiniteError: If a loss or a gradient is not finite.
    """
    directory, fields = RunDirectory(Path(out)), config.plain()
    directory.check(fields)
    with seeded(config.seed, config.threads):
        # Before anything is written, so that a run with invalid settings leaves no directory.
        run = None if directory.results_file.exists() else Run(config)
        with directory.opened(fields):
            if (results := directory.results()) is not None or run is None:
                return results or {}
            _resume(run, directory)
            with _log(directory, run.epoch) as log, directory.failures():
                while run.epoch < config.epochs:
                    run.train_epoch(watch)
                    record = run.history[-1]
                    log.write({**record, "timing": run.timing[-1]})
                    directory.save_checkpoint(run.state_dict())
                    if watch:
                        watch(Progress(run.epoch, config.epochs, 0, None, record))
                results = _results(run).plain()
            write_json(directory.results_file, results)
    return results


def _resume(run: Run, directory: RunDirectory) -> None:
    """Continues from the checkpoint, if there is one."""
    state = directory.load_checkpoint(run.config.plain())
    if state is not None:
        try:
            run.load_state_dict(state)
        except Exception as error:  # a file of another version may hold anything
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunError(
                f"{directory.checkpoint_file} does not fit this version of the benchmark or of "
                f"samo ({reason}). Delete it to restart the run."
            ) from error


def _log(directory: RunDirectory, epoch: int) -> Log:
    """Opens the log, cut off after the checkpoint's epoch."""
    with as_run_error(ValueError):
        return Log(directory.log_file, directory.tensorboard, "epoch", epoch)


def _results(run: Run) -> Results:
    """Evaluates the last and the best epoch, on test data too, and collects the results."""
    scores = _scored(run, "raw", run.history)
    if run.averaged is not None:
        scores["ema"] = _scored(run, "ema", [{**record, **record["ema"]} for record in run.history])
    return validated(
        Results,
        {
            "config": run.config.plain(),
            "tasks": list(run.tasks),
            "metrics": {
                task: {
                    name: {"higher_is_better": metric.higher_is_better, "unit": metric.unit}
                    for name, metric in run.benchmark.metrics[task].items()
                }
                for task in run.tasks
            },
            **scores,
            "history": run.history,
            "timing": {
                **{
                    name: statistics.median(t[name] for t in run.timing)
                    for name in ("step_ms", "ema_ms")
                    if name in run.timing[0]
                },
                "epoch_s": statistics.median(t["epoch_s"] for t in run.timing),
                "total_s": sum(t["epoch_s"] for t in run.timing),
                "peak_memory_mb": max(t.get("peak_memory_mb", 0.0) for t in run.timing) or None,
            },
            "environment": _environment(run.device),
        },
    )


def _scored(run: Run, weights: str, history: Sequence[Record]) -> Record:
    """Evaluates a model after the last and the best epoch."""
    model, best = run.models[weights], run.best[weights]
    last = {name: value.clone() for name, value in model.state_dict().items()}
    scores = {"last": _evaluated(run, weights, run.epoch)}
    model.load_state_dict(best["model"])
    scores["selected"] = _evaluated(run, weights, best["epoch"])
    model.load_state_dict(last)
    if n := run.config.average_last:
        scores["averaged"] = _averaged(history[-n:])
    return scores


def _evaluated(run: Run, weights: str, epoch: int) -> Record:
    """Evaluates a model as it is."""
    validation, _ = run.evaluate("validation", weights)
    test, _ = run.evaluate("test", weights)
    score = average(run.benchmark, validation)
    return {"epoch": epoch, "score": score, "validation": validation, "test": test}


def _averaged(records: Sequence[Record]) -> Record:
    """Computes the means over the last epochs."""

    def mean(split: str) -> Scores:
        return {
            task: {
                name: statistics.fmean(record[split][task][name] for record in records)
                for name in scores
            }
            for task, scores in records[0][split].items()
        }

    return {
        "epochs": [record["epoch"] for record in records],
        "score": statistics.fmean(record["score"] for record in records),
        "validation": mean("validation"),
        "test": mean("test"),
    }


def _environment(device: torch.device) -> dict[str, Any]:
    return {
        "samo": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "processors": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
