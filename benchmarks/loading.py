"""Compares the times of loading a batch and of a step, for the largest layout (NYUv2, 288 × 384).

    python benchmarks/loading.py

Writes rendered rooms in this layout, and times the loading of batches of two (read, checked and
augmented), and one forward pass and one SAMO step of the published SegNet-MTAN on such a batch. All
are CPU times of all threads: loading runs in parallel with training if a core is free.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

import samo
from samo.benchmarks import create
from samo.benchmarks.scenes import SceneSet, write_scenes

IMAGES, BATCH, REPEATS = 12, 2, 5


def main() -> None:
    """Runs the measurements and prints the results."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        write_scenes(SceneSet("nyuv2", IMAGES, 1, 0, 288, 384), directory)
        _measure(Path(directory))


def _measure(data: Path) -> None:
    start = time.process_time()
    benchmark = create("nyuv2", data=data)
    opened = time.process_time() - start
    generator = torch.Generator().manual_seed(0)
    batches = benchmark.batches("train", benchmark.tasks, BATCH, generator)
    loading = []
    for _ in range(REPEATS):
        start = time.process_time()
        n = sum(1 for _ in batches)
        loading.append((time.process_time() - start) / n)

    load = statistics.median(loading)
    print(f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}, 1 thread")
    print(f"opening and checking the headers: {1e3 * opened / (IMAGES + 1):.2f} ms per image")
    print(f"loading a batch of {BATCH}: {1e3 * load:.1f} ms", flush=True)

    torch.manual_seed(0)
    model = benchmark.model()
    batch = next(iter(batches))
    start = time.process_time()
    with torch.no_grad():
        benchmark.losses(model, batch, benchmark.tasks)
    forward = time.process_time() - start
    ratio = forward / load
    print(f"one forward pass: {1e3 * forward:.0f} ms, {ratio:.0f} times the loading", flush=True)

    engine = samo.SAMO(model, benchmark.tasks, aggregator="fairgrad", rho=0.001)
    start = time.process_time()
    engine.backward(lambda tasks: benchmark.losses(model, batch, tasks))
    step = time.process_time() - start
    print(f"one step of SAMO: {1e3 * step:.0f} ms, {step / load:.0f} times the loading")


if __name__ == "__main__":
    main()
