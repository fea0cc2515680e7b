"""The model of a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..benchmarks import Benchmark
from ..records import RunError
from ..records.directory import RunDirectory
from ..records.schema import weights_of
from ._config import RunConfig, configured
from ._run import chosen_tasks, made_benchmark


class Trained(NamedTuple):
    """A trained model with its configuration and benchmark.

    Attributes:
        config: The run's configuration.
        benchmark: The benchmark.
        model: The model, in eval mode, on the CPU.
        tasks: The tasks that it was trained for.
        epoch: The epoch of its weights: the best on validation data so far.
    """

    config: RunConfig
    benchmark: Benchmark
    model: nn.Module
    tasks: tuple[str, ...]
    epoch: int


def trained(out: Path | str, weights: str = "raw") -> Trained:
    """Reads the model of a run, finished or not, with the weights of its best epoch.

    Args:
        out: The run's directory.
        weights: ``"raw"``, or ``"ema"`` for the averaged weights of a run that has them.

    Returns:
        The model, with its configuration and benchmark.

    Raises:
        RunError: If there is no checkpoint, it cannot be read, or the run has no such weights.
    """
    directory = RunDirectory(Path(out))
    if not directory.checkpoint_file.exists():
        raise RunError(f"{out} holds no run with a checkpoint (`samo train .. --out {out}`).")
    config = configured(**directory.config())
    if weights not in (known := weights_of(config.plain())):
        raise RunError(f"weights of {out} must be one of {', '.join(known)}; found {weights!r}.")
    state = directory.load_checkpoint(config.plain())
    benchmark = made_benchmark(config)
    with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
        model = benchmark.model()
    best = None if state is None else state.get("best", {}).get(weights)
    if not best:
        raise RunError(f"{directory.checkpoint_file} holds no complete epoch.")
    try:
        model.load_state_dict(best["model"])
        epoch = int(best["epoch"])
    except Exception as error:  # a file of another version may hold anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"{directory.checkpoint_file} does not fit the benchmark's model: {reason}"
        ) from error
    tasks = chosen_tasks(benchmark, config.tasks)
    return Trained(config, benchmark, model.eval(), tasks, epoch)
