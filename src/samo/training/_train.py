"""The training loop: from a configuration to results, through any number of interruptions."""

from __future__ import annotations

import os
import platform
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._log import Log
from .._version import __version__
from ._config import RunConfig
from ._errors import RunError
from ._evaluate import Scores, average
from ._files import RunDirectory, write_json
from ._run import Progress, Run, Watch, _random_state, _set_random_state


def train(config: RunConfig, out: Path | str, *, watch: Watch | None = None) -> dict[str, Any]:
    """Trains, or goes on where an earlier call was interrupted.

    After each epoch the model is evaluated on validation data and the whole state is saved. A run
    that was killed goes on from the last complete epoch, to the same numbers, bit for bit, as one
    that was not. A finished run is not made again: its results are read.

    The epoch to report is the one with the best score on validation data (see
    `samo.benchmarks.Benchmark`). Test data is looked at when training is over, with the weights of
    that epoch and of the last one. With `average_last` = n, the mean of the scores after each of
    the last n epochs is reported instead.

    Args:
        config: What to train.
        out: The run's directory.
        watch: Is told of each step and of each epoch.

    Returns:
        What ``results.json`` holds: configuration, metrics, history by epoch, ``selected`` (epoch,
        score, validation and test scores of the best epoch), ``last`` (those of the last one),
        ``averaged`` (the means over the last epochs, where they are what is reported), timing,
        environment.

    Raises:
        RunError: If the settings do not fit together, the directory holds another run, or a
            checkpoint cannot be read.
        NonFiniteError: If a loss or a gradient is not finite.
    """
    directory = RunDirectory(Path(out))
    directory.check(config)
    with _apart(config):
        # Made before anything is written: what cannot be made leaves nothing behind.
        run = None if directory.results_file.exists() else Run(config)
        with directory.opened(config):
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
                results = _results(run)
            write_json(directory.results_file, results)
    return results


def _resume(run: Run, directory: RunDirectory) -> None:
    """Continues from the checkpoint, if there is one."""
    state = directory.load_checkpoint(run.config)
    if state is not None:
        try:
            run.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise RunError(
                f"{directory.checkpoint_file} does not fit this version of the benchmark or of "
                f"samo ({str(error).splitlines()[0]}). Delete it to start the run again."
            ) from error


def _log(directory: RunDirectory, epoch: int) -> Log:
    """The log, up to the epoch of the checkpoint."""
    try:
        return Log(directory.log_file, directory.tensorboard, "epoch", epoch)
    except ValueError as error:
        raise RunError(str(error)) from error


def _results(run: Run) -> dict[str, Any]:
    """The scores of the last epoch and of the best one, on test data too, and what led to them."""
    last = run.model.state_dict()
    last = {name: value.clone() for name, value in last.items()}
    scores = {}
    for name, weights in (("last", last), ("selected", run.best["model"])):
        run.model.load_state_dict(weights)
        validation, _ = run.evaluate("validation")
        test, _ = run.evaluate("test")
        scores[name] = {
            "epoch": run.epoch if name == "last" else run.best["epoch"],
            "score": average(run.benchmark, validation),
            "validation": validation,
            "test": test,
        }
    run.model.load_state_dict(last)
    metrics = run.benchmark.metrics
    return {
        "config": run.config.model_dump(mode="json"),
        "tasks": list(run.tasks),
        "metrics": {
            task: {
                name: {"higher_is_better": metric.higher_is_better, "unit": metric.unit}
                for name, metric in metrics[task].items()
            }
            for task in run.tasks
        },
        **scores,
        **_averaged(run.history[run.epoch - run.config.average_last :]),
        "history": run.history,
        "timing": {
            "step_ms": statistics.median(t["step_ms"] for t in run.timing),
            "epoch_s": statistics.median(t["epoch_s"] for t in run.timing),
            "total_s": sum(t["epoch_s"] for t in run.timing),
            "peak_memory_mb": max(t.get("peak_memory_mb", 0.0) for t in run.timing) or None,
        },
        "environment": {
            "samo": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "processors": os.cpu_count(),
            "device": _device_name(run.device),
        },
    }


def _averaged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means over the last epochs, if there are any to take."""
    if not records:
        return {}

    def mean(split: str) -> Scores:
        return {
            task: {
                name: statistics.fmean(record[split][task][name] for record in records)
                for name in scores
            }
            for task, scores in records[0][split].items()
        }

    return {
        "averaged": {
            "epochs": [record["epoch"] for record in records],
            "score": statistics.fmean(record["score"] for record in records),
            "validation": mean("validation"),
            "test": mean("test"),
        }
    }


def reported(results: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the scores by which a run is reported and compared.

    Args:
        results: What ``results.json`` holds.

    Returns:
        The means over the last epochs where the run was told to take them (``average_last``), else
        the scores of the epoch that is best on validation data: ``score``, ``validation`` and
        ``test``.
    """
    found: dict[str, Any] = results.get("averaged") or results["selected"]
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _apart(config: RunConfig) -> Iterator[None]:
    """Seeds every generator and sets the number of threads, and puts both back afterwards."""
    threads, state = torch.get_num_threads(), _random_state()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    np.random.seed(config.seed % 2**32)  # noqa: NPY002 - for methods that draw from the old generator
    random.seed(config.seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _set_random_state(state)
