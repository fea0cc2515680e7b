"""Compares ways to evaluate the perturbed copies of several tasks: serially, or in one batch.

    python benchmarks/batched.py [--tasks 11] [--batches 8,32,128]

SPSA evaluates 2K perturbed copies of a model. For the perceptron of ``samo bench``, three ways are
compared: one after the other, as in the engine; all 2K in one pass by ``torch.func.vmap`` over
stacked parameters, in which every copy evaluates every head (a closure cannot be called with a
different task for each copy); and, as a bound for batched evaluation, the trunk alone, written by
hand with batched matrix products.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from estimators import write_text  # type: ignore[import-not-found]
from torch import Tensor
from torch.func import vmap
from torch.nn.utils.stateless import _reparametrize_module

from samo.cost import build, case_sizes

OUT = Path(__file__).parent / "results" / "batched.md"
LEAST = 0.1  # minimum seconds per timing


def ways(tasks: int, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Returns the three ways."""
    workload = build("mlp", case_sizes("mlp", "standard", tasks, batch), device)
    model, losses, names = workload.model, workload.losses(), workload.tasks
    shared = {id(parameter) for parameter in workload.shared}
    stacked = {
        name: p.detach().expand(2 * tasks, *p.shape) + 0.01 * torch.randn(2 * tasks, *p.shape)
        for name, p in model.named_parameters()
        if id(p) in shared
    }
    layers = list(stacked.values())

    def one(parameters: dict[str, Tensor]) -> Tensor:
        with _reparametrize_module(model, parameters):
            return torch.stack(list(losses(names).values()))

    def by_hand() -> Tensor:
        h = workload.inputs.expand(2 * tasks, *workload.inputs.shape)
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            h = F.relu(torch.baddbmm(bias.unsqueeze(1), h, weight.mT))
        return h

    return {
        "one by one": lambda: [losses([name]) for name in names for _ in range(2)],
        "vmap": lambda: vmap(one)(stacked),
        "by hand": by_hand,
    }


@torch.no_grad()
def milliseconds(way: Callable[[], object], steps: int) -> float:
    """Returns the mean time of a call."""
    start = time.perf_counter()
    for _ in range(steps):
        way()
    return 1e3 * (time.perf_counter() - start) / steps


def main() -> None:
    """Runs the measurements and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=11)
    parser.add_argument("--batches", default="8,32,128")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = [
        f"2K = {2 * given.tasks} evaluations of the perceptron's copies without a graph: ms, "
        f"medians of {given.rounds} rounds, and the ratio to one by one (median of the rounds).",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} thread, "
        f"torch {torch.__version__}.",
        "",
        "| batch | one by one | vmap, all heads | trunk alone, by hand |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for batch in map(int, given.batches.split(",")):
        torch.manual_seed(0)
        found = ways(given.tasks, batch, torch.device("cpu"))
        steps = {n: max(1, round(1e3 * LEAST / milliseconds(w, 3))) for n, w in found.items()}
        times = np.array(
            [[milliseconds(w, steps[n]) for n, w in found.items()] for _ in range(given.rounds)]
        )
        one, other, hand = np.median(times, axis=0)
        by_vmap, by_hand = np.median(times[:, 1:] / times[:, :1], axis=0)
        cells = [f"{one:.2f}", f"{other:.2f} ({by_vmap:.2f} ×)", f"{hand:.2f} ({by_hand:.2f} ×)"]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    write_text(given.out, lines)


if __name__ == "__main__":
    main()
