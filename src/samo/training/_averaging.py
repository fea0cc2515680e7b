"""Exponential moving average of a run's weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from ..benchmarks import Benchmark
from ._evaluate import to_device


def decay_at(decay: float, updates: int) -> float:
    """Returns the decay of an update: ``min(decay, (1 + t) / (10 + t))`` after t updates.

    The smaller decay at the start keeps the initial weights out of the average, as TensorFlow's
    ``ExponentialMovingAverage(decay, num_updates)`` does.

    Example:
        >>> [round(decay_at(0.98, t), 2) for t in (1, 10, 100, 1000)]
        [0.18, 0.55, 0.92, 0.98]
    """
    return min(decay, (1 + updates) / (10 + updates))


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """Creates the average of a model's parameters: w̄ ← d w̄ + (1 − d) w, with d from `decay_at`.

    Buffers are those of the model; see `recompute_statistics` for BatchNorm's.

    Args:
        model: The model.
        decay: The decay, in (0, 1).

    Returns:
        The average; call its ``update_parameters(model)`` after each step of the optimizer.
    """

    def average(averages: Any, parameters: Any, updates: Tensor | int) -> None:
        get_ema_multi_avg_fn(decay_at(decay, int(updates)))(averages, parameters, updates)

    return AveragedModel(model, multi_avg_fn=average)


def recompute_statistics(
    benchmark: Benchmark,
    model: nn.Module,
    tasks: Sequence[str],
    batches: Iterable[Any],
    device: torch.device,
) -> None:
    """Recomputes the statistics of BatchNorm layers with ``torch.optim.swa_utils.update_bn``.

    Those of the raw weights do not fit averaged weights (Izmailov et al., arXiv 1803.05407,
    Algorithm 1). Costs a forward pass of the batches; nothing if the model has no BatchNorm layers.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    before = [{name: b.clone() for name, b in layer.named_buffers()} for layer in layers]
    # update_bn takes the first element of a tuple for the model's input.
    inputs = ((to_device(batch, device),) for batch in batches)
    update_bn(inputs, _OfBatches(benchmark, model, tasks))
    for layer, buffers in zip(layers, before, strict=True):
        # update_bn has reset layers that it does not reach: frozen ones, and those of other tasks.
        if layer.num_batches_tracked == 0:
            layer.load_state_dict(buffers, strict=False)


class _OfBatches(nn.Module):
    """A model whose input is a whole batch of a benchmark."""

    def __init__(self, benchmark: Benchmark, model: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.benchmark = benchmark
        self.model = model
        self.tasks = tasks

    def forward(self, batch: Any) -> Any:
        return self.benchmark.outputs(self.model, batch, self.tasks)
