"""Losses and metrics on a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..benchmarks import Benchmark
from ..records import RunError
from ._errors import DivergedError

Scores = dict[str, dict[str, float]]
"""Metrics of each task by name, with its loss as ``"loss"``."""


def to_device(batch: Any, device: torch.device) -> Any:
    """Moves objects with a method ``to``, and tuples, lists and mappings of them, to a device."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(item, device) for key, item in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(item, device) for item in batch)
    return batch


def evaluate(
    benchmark: Benchmark,
    model: nn.Module,
    tasks: Sequence[str],
    batches: Iterable[Any],
    device: torch.device,
    limit: int | None = None,
) -> tuple[Scores, int]:
    """Evaluates a model in eval mode, on at most `limit` batches, then restores its mode.

    Returns:
        The scores, and the number of batches evaluated.

    Raises:
        RunError: If a task has no examples.
        DivergedError: If a metric or loss is not finite.
    """
    meters = {
        task: {name: metric.make().to(device) for name, metric in benchmark.metrics[task].items()}
        for task in tasks
    }
    losses: dict[str, list[tuple[float, int]]] = {task: [] for task in tasks}
    training, n_batches = model.training, 0
    model.eval()
    with torch.no_grad():
        for batch in islice(batches, limit):
            n_batches += 1
            outputs = benchmark.outputs(model, to_device(batch, device), tasks)
            for task, (prediction, target) in outputs.items():
                loss = benchmark.loss(task, prediction, target).item()
                losses[task].append((loss, len(target)))
                for meter in meters[task].values():
                    meter.update(prediction, target)
    model.train(training)
    return {task: _scores(benchmark, task, meters[task], losses[task]) for task in tasks}, n_batches


def _scores(
    benchmark: Benchmark, task: str, meters: Mapping[str, Any], losses: list[tuple[float, int]]
) -> dict[str, float]:
    if not losses:
        raise RunError(f"task {task!r} has no examples to evaluate.")
    # torchmetrics computes in float32: digits beyond the seventh are noise.
    scores = {
        name: float(f"{metric.scale * float(meters[name].compute()):.7g}")
        for name, metric in benchmark.metrics[task].items()
    }
    n = sum(count for _, count in losses)
    scores["loss"] = math.fsum(loss * count for loss, count in losses) / n
    for name, value in scores.items():
        if not math.isfinite(value):
            raise DivergedError(f"the {name} of task {task!r} is {value} in evaluation.")
    return scores


def average(benchmark: Benchmark, scores: Scores) -> float:
    """Averages the first metric of each task, negated where lower is better."""
    terms = []
    for task, values in scores.items():
        name, metric = next(iter(benchmark.metrics[task].items()))
        terms.append(values[name] if metric.higher_is_better else -values[name])
    return math.fsum(terms) / len(terms)
