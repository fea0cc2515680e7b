"""Measures the effect of half precision on the accuracy on digits and the error of updates.

    python benchmarks/precision.py

Trains `digits` with SAMO and FairGrad in float32, under bfloat16 autocast, and under float16
autocast with a GradScaler, with the same seeds. Then compares the updates of steps that store task
gradients in bfloat16 with those in float32, during a float32 run of each preset. Prints Markdown.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import samo
from samo.benchmarks import Benchmark, create

SEEDS, EPOCHS, BATCH, RHO = range(5), 10, 32, 0.2
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED: dict[str, Callable[..., samo.Engine]] = {
    "ERM": samo.ERM,
    "GSAM": partial(samo.GSAM, rho=RHO),
    "SAMO": partial(samo.SAMO, rho=RHO),
    "FMTL": partial(samo.FMTL, rho=RHO),
}
METHODS = ["mgda", "upgrad", "fairgrad"]


def main() -> None:
    """Runs the measurements and prints two tables."""
    torch.set_num_threads(1)
    digits = create("digits")
    print(f"{platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| precision | average accuracy (%) ↑ | paired difference to float32 | skipped steps |")
    print("| --- | ---: | ---: | ---: |")
    reference: list[float] = []
    for name, dtype in PRECISIONS.items():
        runs = [_train(digits, dtype, seed) for seed in SEEDS]
        scores = [score for score, _ in runs]
        reference = reference or scores
        differences = [a - b for a, b in zip(scores, reference, strict=True)]
        skipped = sum(skips for _, skips in runs)
        print(f"| {name} | {_spread(scores)} | {_spread(differences)} | {skipped} |", flush=True)
    print("\n| preset | method | relative error of the update | cosine |")
    print("| --- | --- | ---: | ---: |")
    for preset, make in STORED.items():
        for method in METHODS:
            errors, cosines = zip(*_stored(digits, make, method), strict=True)
            mean, worst = statistics.mean(errors), max(errors)
            print(f"| {preset} | {method} | {mean:.2%}, at most {worst:.2%} | {min(cosines):.6f} |")


def _train(benchmark: Benchmark, dtype: torch.dtype | None, seed: int) -> tuple[float, int]:
    """Returns the mean test accuracy of the tasks in percent, and the number of skipped steps."""
    torch.manual_seed(seed)
    model = benchmark.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=benchmark.defaults.lr)
    engine = samo.SAMO(model, benchmark.tasks, aggregator="fairgrad", rho=RHO, seed=seed)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    generator, skipped = torch.Generator().manual_seed(seed), 0
    half = partial(torch.autocast, "cpu", dtype) if dtype else nullcontext
    for _ in range(EPOCHS):
        for batch in benchmark.batches("train", benchmark.tasks, BATCH, generator):
            optimizer.zero_grad()
            closure = partial(_losses, benchmark, model, batch, half)
            result = engine.backward(closure, grad_scaler=scaler)
            scaler.step(optimizer)
            scaler.update()
            skipped += result.overflowed
    right: list[Tensor] = []
    with torch.no_grad(), half():
        for batch in benchmark.batches("test", benchmark.tasks, BATCH):
            for logits, labels in benchmark.outputs(model, batch, benchmark.tasks).values():
                right.append(logits.argmax(1) == labels)
    return 100 * torch.cat(right).float().mean().item(), skipped


def _stored(
    benchmark: Benchmark, make: Callable[..., samo.Engine], method: str
) -> list[tuple[float, float]]:
    """Returns relative errors and cosines of updates, every ten steps of one epoch."""
    torch.manual_seed(0)
    model = benchmark.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=benchmark.defaults.lr)
    arguments: dict[str, Any] = {"model": model, "tasks": benchmark.tasks, "aggregator": method}
    full, half = make(**arguments), make(**arguments, gradient_dtype=torch.bfloat16)
    found, generator = [], torch.Generator().manual_seed(0)
    batches = benchmark.batches("train", benchmark.tasks, BATCH, generator)
    for number, batch in enumerate(batches):
        closure = partial(_losses, benchmark, model, batch, nullcontext)
        if number % 10 == 9:
            half.load_state_dict(full.state_dict())
            updates = []
            for engine in (half, full):
                optimizer.zero_grad()
                engine.backward(closure)
                updates.append(_update(model))
            stored, exact = updates
            cosine = torch.cosine_similarity(stored, exact, dim=0).item()
            found.append((((stored - exact).norm() / exact.norm()).item(), cosine))
        else:
            optimizer.zero_grad()
            full.backward(closure)
        optimizer.step()
    return found


def _losses(
    benchmark: Benchmark,
    model: nn.Module,
    batch: Any,
    half: Callable[[], AbstractContextManager[Any]],
    tasks: Sequence[str],
) -> Mapping[str, Tensor]:
    with half():
        return benchmark.losses(model, batch, tasks)


def _update(model: nn.Module) -> Tensor:
    """Returns the gradient of the shared parameters, flattened, in float64."""
    trunk = [p for name, p in model.named_parameters() if not name.startswith("heads.")]
    return torch.cat([p.grad.double().flatten() for p in trunk if p.grad is not None])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


if __name__ == "__main__":
    main()
