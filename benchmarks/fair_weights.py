"""Compares ``fair-rise`` with equal weights and with FairGrad, without and with G-SAM.

    python benchmarks/fair_weights.py digits-domains
    python benchmarks/fair_weights.py TABLE.parquet

TABLE has eleven targets of QM9 (`TARGETS`), inputs, and a column ``split``. The learning rate of
each arm is chosen on validation data, with seeds of its own, and the arms are compared on test data
with other seeds. Constant learning rate, Adam, last epoch; the weights that are evaluated are the
moving average (0.98) over the steps. Repeat an interrupted command to continue.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from estimators import write_text  # type: ignore[import-not-found]
from scipy.stats import t as student
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import samo
from samo import benchmarks
from samo.metrics import delta_m

TARGETS = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")
LRS = (1e-3, 2e-3, 4e-3)


@dataclass(frozen=True)
class Arm:
    """A method, the radius of the shared parameters, and where task gradients are compared."""

    method: str
    rho: float
    level: str = "parameter"
    lr: float = 1e-3


class Domains:
    """The benchmark ``digits-domains``: accuracy, the mean over the domains."""

    name, seeds, tuning, epochs, batch = "digits-domains", 16, 4, 40, 32
    levels = ("parameter",)  # each task has its own inputs, so no representation is shared
    rho = 0.1

    def __init__(self) -> None:
        self.benchmark = benchmarks.create(self.name)
        self.tasks = self.benchmark.tasks

    def batches(self, split: Any, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """Yields the batches of an epoch."""
        yield from self.benchmark.batches(split, self.tasks, size, generator)

    def losses(self, model: nn.Module, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Returns the losses of a batch."""
        return self.benchmark.losses(model, batch, tasks)

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> dict[str, float]:
        """Returns the accuracy of each task."""
        (batch,) = self.batches(split, 1 << 20, None)
        found = self.benchmark.outputs(model, batch, self.tasks)
        return {t: 100 * (p.argmax(1) == y).float().mean().item() for t, (p, y) in found.items()}

    def summary(self, scores: dict[str, float], base: dict[str, float]) -> float:  # noqa: ARG002
        """Returns the mean accuracy."""
        return statistics.mean(scores.values())


class Molecules:
    """Targets of QM9: minus Δm of the mean absolute errors, relative to single tasks."""

    name, seeds, tuning, epochs, batch = "qm9", 6, 2, 10, 128
    levels = ("representation",)
    rho = 0.01
    tasks = TARGETS

    def __init__(self, table: str) -> None:
        options = {"data": table, "tasks": list(TARGETS), "split_column": "split", "width": 64}
        self.benchmark = benchmarks.create("tabular", **options)
        splits: Any = ("train", "validation", "test")
        self._data = {s: next(iter(self.benchmark.batches(s, TARGETS, 1 << 15))) for s in splits}

    def batches(self, split: str, size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """Yields the batches of an epoch: inputs, and the targets by task."""
        numbers, _, *targets = self._data[split]
        order = torch.randperm(len(numbers), generator=generator)
        for rows in order.split(size):
            yield numbers[rows], {t: y[rows] for t, y in zip(TARGETS, targets, strict=True)}

    def losses(self, model: nn.Module, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Returns the mean squared errors of a batch."""
        predictions = model(batch[0], None, tasks)
        return {t: nn.functional.mse_loss(predictions[t], batch[1][t]) for t in tasks}

    @torch.no_grad()
    def scores(self, model: nn.Module, split: str) -> dict[str, float]:
        """Returns the mean absolute error of each task, in standard deviations."""
        ((x, targets),) = self.batches(split, 1 << 20, torch.Generator().manual_seed(0))
        predictions = model(x, None, TARGETS)
        return {t: (predictions[t] - targets[t]).abs().mean().item() for t in TARGETS}

    def summary(self, scores: dict[str, float], base: dict[str, float]) -> float:
        """Returns minus Δm."""
        return -delta_m(scores, base, dict.fromkeys(scores, False))


class Runs:
    """The runs on disk, and those that are still missing."""

    def __init__(self, problem: Any, folder: Path) -> None:
        self.problem, self.file = problem, folder / f"{problem.name}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.known = {record["key"]: record for record in map(json.loads, lines)}

    def __call__(self, arm: Arm, seed: int, tasks: Sequence[str] = ()) -> Any:
        """Returns the record of a run, which is trained if there is none."""
        key = json.dumps([asdict(arm), seed, *tasks])
        if key not in self.known:
            self.known[key] = {"key": key, **train(self.problem, arm, seed, tasks)}
            with self.file.open("a") as file:
                file.write(json.dumps(self.known[key]) + "\n")
        return self.known[key]


def train(problem: Any, arm: Arm, seed: int, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Trains some tasks, all if none are named; returns scores and milliseconds per step."""
    tasks = tuple(tasks) or problem.tasks
    torch.manual_seed(seed)
    model = problem.benchmark.model()
    perturbation = samo.Perturbation(arm.rho, rho_own=0.0, alpha=1.0) if arm.rho else None
    engine = samo.Engine(
        model,
        tasks,
        aggregator=arm.method,
        perturbation=perturbation,
        seed=seed,
        level=arm.level,  # type: ignore[arg-type]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=arm.lr)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    generator, durations = torch.Generator().manual_seed(seed), []
    for _ in range(problem.epochs):
        for batch in problem.batches("train", problem.batch, generator):

            def losses(wanted: Sequence[str], batch: Any = batch) -> dict[str, Tensor]:
                return dict(problem.losses(model, batch, wanted))

            start = time.perf_counter()
            optimizer.zero_grad()
            engine.backward(losses)
            durations.append(1e3 * (time.perf_counter() - start))
            optimizer.step()
            average.update_parameters(model)
    scores = {split: problem.scores(average.module, split) for split in ("validation", "test")}
    return {**scores, "ms": statistics.median(durations)}


def main() -> None:
    """Trains the missing runs, and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="digits-domains, or the table of QM9")
    parser.add_argument("--runs", type=Path, default=Path("runs/fair_weights"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    problem: Any = Domains() if given.data == Domains.name else Molecules(given.data)
    runs = Runs(problem, given.runs)
    tuning = range(problem.seeds, problem.seeds + problem.tuning)
    base: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
    if problem.name == Molecules.name:
        for split, t in ((split, t) for split in base for t in problem.tasks):
            single = [runs(Arm("ls", 0.0, lr=4e-3), seed, [t])[split][t] for seed in tuning]
            base[split][t] = statistics.mean(single)

    def summaries(arm: Arm, seeds: range, split: str) -> list[float]:
        return [problem.summary(runs(arm, seed)[split], base[split]) for seed in seeds]

    results: dict[Arm, tuple[Arm, list[float]]] = {}
    for rho in (0.0, problem.rho):
        arms = [Arm("ls", rho), *([Arm("fair-rise", rho)] if rho else [])]
        for arm in [*arms, *(Arm("fairgrad", rho, level) for level in problem.levels)]:
            options = [replace(arm, lr=lr) for lr in LRS]
            best = max(options, key=lambda o: statistics.mean(summaries(o, tuning, "validation")))
            results[arm] = best, summaries(best, range(problem.seeds), "test")
    what = "mean accuracy (%)" if base["test"] == {} else "minus Δm (%)"
    lines = [
        f"`{problem.name}`: {what}, means over {problem.seeds} seeds; differences to `ls` with the "
        f"same ρ, paired, with 95 % intervals. Learning rates out of {list(LRS)}.",
        "",
        "| ρ | method | level | learning rate | result | to `ls` |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for arm, (best, found) in results.items():
        pairs = zip(found, results[Arm("ls", arm.rho)][1], strict=True)
        cells = [f"{arm.rho:g}", f"`{arm.method}`", arm.level, f"{best.lr:g}"]
        cells += [f"{statistics.mean(found):.1f}", difference([a - b for a, b in pairs])]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(given.out / f"fair_weights_{problem.name}.md", lines)


def difference(found: Sequence[float]) -> str:
    """Returns the mean and its 95 % interval; nothing for the arm itself."""
    if not any(found):
        return ""
    error = statistics.stdev(found) / math.sqrt(len(found))
    return f"{statistics.mean(found):+.1f} ± {student.ppf(0.975, len(found) - 1) * error:.1f}"


if __name__ == "__main__":
    main()
