"""Compares a step with a compiled trunk (`torch.compile`) to the same step in eager mode.

    python benchmarks/compiled.py [--cases mlp,lenet,transformer] [--mode reduce-overhead]

The cases are those of ``samo bench``. Each round times a step with both trunks; the table has the
medians, the ratios within a round, the number of graphs compiled in the first two steps and later,
and the distance of the gradients of the first step. On a GPU, ``--mode reduce-overhead`` records
CUDA graphs.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from estimators import write_text  # type: ignore[import-not-found]
from torch import Tensor
from torch._dynamo.utils import counters

import samo
from samo.cost import Workload, build, case_sizes

OUT = Path(__file__).parent / "results" / "compiled.md"
PRESETS = {"erm": samo.ERM, "gsam": samo.GSAM, "samo": samo.SAMO}
LEAST = 0.2  # minimum seconds per timing


class Side:
    """A workload with its engine, the trunk compiled or not."""

    def __init__(self, case: str, preset: str, device: torch.device, mode: str | None) -> None:
        torch.manual_seed(0)
        size = "full" if device.type == "cuda" else "standard"
        self.workload: Workload = build(case, case_sizes(case, size, None, None), device)
        if mode is not None:
            model: Any = self.workload.model
            model.trunk = torch.compile(model.trunk, mode=mode)
        own = self.workload.own
        tasks = self.workload.tasks
        self.engine = PRESETS[preset](self.workload.model, tasks, aggregator="fairgrad", own=own)
        self.losses = self.workload.losses()
        self.device = device

    def step(self) -> None:
        """Runs a step, and synchronizes."""
        self.workload.model.zero_grad()
        self.engine.backward(self.losses)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def gradient(self) -> Tensor:
        """Returns the gradient of the last step."""
        grads = [p.grad.flatten() for p in self.workload.model.parameters() if p.grad is not None]
        return torch.cat(grads)

    def seconds(self, steps: int) -> float:
        """Returns the mean time of several steps."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - start) / steps


def row(case: str, preset: str, rounds: int, device: torch.device, mode: str) -> str:
    """Measures one case and preset."""
    torch._dynamo.reset()
    counters.clear()
    eager, compiled = Side(case, preset, device, None), Side(case, preset, device, mode)
    eager.step()
    compiled.step()
    apart = (eager.gradient() - compiled.gradient()).norm() / eager.gradient().norm()
    compiled.step()
    made = counters["stats"]["unique_graphs"]
    counters.clear()
    steps = max(1, round(LEAST / eager.seconds(1)))
    times = np.array([[eager.seconds(steps), compiled.seconds(steps)] for _ in range(rounds)])
    again = counters["stats"]["unique_graphs"]
    ratios = times[:, 1] / times[:, 0]
    plain, fast = 1e3 * np.median(times, axis=0)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return (
        f"| {case} | {preset} | {plain:.1f} | {fast:.1f} | {middle:.2f} ({low:.2f}–{high:.2f}) "
        f"| {made} | {again} | {apart:.0e} |"
    )


def main() -> None:
    """Runs the measurements and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default="mlp,lenet,transformer")
    parser.add_argument("--mode", default="default", help="mode of torch.compile")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    lines = [
        f"A step with FairGrad, its trunk compiled (mode {given.mode!r}) or not: ms, medians of "
        f"{given.rounds} rounds; the ratio of the two in a round, median and quartiles; the "
        f"number of graphs compiled in the first two steps, and later; the relative distance of "
        f"the first step's gradients.",
        "",
        f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} thread, {given.device}, "
        f"torch {torch.__version__}.",
        "",
        "| case | preset | eager | compiled | compiled / eager | graphs | later ones | distance |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in given.cases.split(","):
        lines += [row(case, preset, given.rounds, given.device, given.mode) for preset in PRESETS]
    write_text(given.out, lines)


if __name__ == "__main__":
    main()
