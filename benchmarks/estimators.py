"""Measures the quality and the cost of the estimators of the local gradient.

    python benchmarks/estimators.py quality [--case NAME] [--data DIR] [--steps 600] [--points 9]
    python benchmarks/estimators.py cost    [--case NAME] [--data DIR] [--rounds 30]

``quality``: the cosine between a task's perturbation and the one along its exact gradient, during
training. ``cost``: the CPU time of a step relative to ERM's, interleaved in one process with one
thread, so that other programs have no influence. DIR is the directory with ``fashion_mnist/``.
``overlaid.py`` measures the test accuracy with each estimator; ``estimators_accuracy.py`` compares
it with the cost.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import samo
from samo import benchmarks, records
from samo.benchmarks.networks import CelebACNN, LeNet
from samo.report.tables import write_lines
from samo.training import PRESETS, perturbation

OUT = Path(__file__).parent / "results" / "estimators"
RHO = 0.1
# name: preset of the command line, and options that differ from its defaults
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "erm": ("erm", {}),
    "gsam": ("gsam", {}),
    "lsam": ("lsam", {}),
    "fmtl": ("fmtl", {}),
    "samo": ("samo", {}),
    "samo, one-sided": ("samo", {"antithetic": False}),
    "samo, rademacher": ("samo", {"noise": "rademacher"}),
    "samo, 8 samples": ("samo", {"samples": 8}),
    "random": ("random", {}),
    "previous": ("previous", {}),
    "groups, 2": ("groups", {"groups": 2}),
    "groups, 4": ("groups", {"groups": 4}),
    "groups, 8": ("groups", {"groups": 8}),
    "last-layers": ("last-layers", {}),
    "last-layers, 0.1": ("last-layers", {"share": 0.1}),
}


@dataclass
class Case:
    """A model with the names of the tasks, and batches as closures for `Engine.backward`."""

    model: nn.Module
    tasks: list[str]
    batches: Callable[[], Iterator[Callable[[Sequence[str]], dict[str, Tensor]]]]


def digits(_data: Path | None) -> Case:
    """Pairs of 8 × 8 digits, K = 2, a perceptron with 91,648 shared parameters."""
    return _of_benchmark(benchmarks.create("digits"))


def multifashion(data: Path | None) -> Case:
    """Pairs of articles, K = 2, LeNet with 30,890 shared parameters."""
    return _of_benchmark(_pairs(data))


def questions(data: Path | None) -> Case:
    """The same pictures, K = 20: is there a bag top left? is there a boot bottom right? ..."""
    benchmark = _pairs(data)
    corners = {
        f"{corner} {i}": (at, i) for at, corner in enumerate(benchmark.tasks) for i in range(10)
    }
    model = LeNet(list(corners), classes=1)
    generator = torch.Generator().manual_seed(0)

    def batches() -> Iterator[Any]:
        for x, *labels in benchmark.batches("train", benchmark.tasks, 64, generator):

            def losses(tasks: Sequence[str], x: Any = x, labels: Any = labels) -> dict[str, Tensor]:
                found = {}
                for task, logits in model(x / 255, tasks).items():
                    corner, i = corners[task]
                    truth = (labels[corner] == i).float()
                    found[task] = F.binary_cross_entropy_with_logits(logits.squeeze(-1), truth)
                return found

            yield losses

    return Case(model, list(corners), batches)


def celeba(_data: Path | None, batch: int = 32) -> Case:
    """The network of CelebA at full size on noise: K = 40, batch 32; for the cost only."""
    tasks = [f"t{i}" for i in range(40)]
    model = CelebACNN(tasks)
    x, y = torch.randn(batch, 3, 64, 64), torch.rand(40, batch).round()

    def losses(asked: Sequence[str]) -> dict[str, Tensor]:
        return {
            task: F.binary_cross_entropy_with_logits(logits, y[tasks.index(task)])
            for task, logits in model(x, asked).items()
        }

    return Case(model, tasks, lambda: iter([losses] * 10))


def celeba_8(data: Path | None) -> Case:
    """The same at batch 8."""
    return celeba(data, 8)


CASES = {case.__name__: case for case in (digits, multifashion, questions, celeba, celeba_8)}


def _pairs(data: Path | None) -> benchmarks.Benchmark:
    if data is None:
        raise SystemExit("--data must be the directory with fashion_mnist/.")
    sizes = {"pairs": 3000, "validation_pairs": 100, "test_pairs": 100}
    return benchmarks.create("multifashion", data=data, network="lenet", **sizes)


def _of_benchmark(benchmark: benchmarks.Benchmark) -> Case:
    model, generator = benchmark.model(), torch.Generator().manual_seed(0)

    def batches() -> Iterator[Any]:
        for batch in benchmark.batches("train", benchmark.tasks, 64, generator):
            yield lambda tasks, batch=batch: benchmark.losses(model, batch, tasks)

    return Case(model, list(benchmark.tasks), batches)


def engine_of(case: Case, arm: str, method: str = "ls", **options: Any) -> samo.Engine:
    """Makes the engine of an arm, without options that its preset does not have."""
    preset, own = ARMS[arm]
    chosen = {**own, **{k: v for k, v in options.items() if k in PRESETS[preset].options}}
    perturb, decompose = perturbation(preset, None if preset == "erm" else RHO, chosen)
    return samo.Engine(
        case.model, case.tasks, aggregator=method, perturbation=perturb, decompose=decompose
    )


def perturbations(engine: samo.Engine, case: Case, losses: Any) -> dict[str, Tensor]:
    """Returns the ε_i of the tasks in one step of an engine, observed in the closure."""
    heads: Any = case.model.heads
    own = {id(parameter) for parameter in heads.parameters()}
    shared = [p for p in case.model.parameters() if id(p) not in own]
    theta: list[Tensor] = []
    found: dict[str, Tensor] = {}

    def observed(tasks: Sequence[str]) -> dict[str, Tensor]:
        if not theta:
            theta.extend(p.detach().clone() for p in shared)
        elif torch.is_grad_enabled():
            moved = [(p.detach() - t).flatten() for p, t in zip(shared, theta, strict=True)]
            found.update(dict.fromkeys(tasks, torch.cat(moved)))
        return dict(losses(tasks))

    engine.backward(observed)
    case.model.zero_grad()
    return found


def quality(
    name: str, data: Path | None, steps: int, points: int, arms: Sequence[str], out: Path
) -> None:
    """Trains with GSAM, and evaluates all arms in two consecutive steps at each point.

    Only the second is recorded; the first provides `PreviousGradient` with a gradient.
    """
    torch.manual_seed(0)
    case = CASES[name](data)
    # F-MTL has the ε_i of L-SAM, which are the reference for all.
    arms = ["lsam", *(arm for arm in arms if arm not in ("erm", "fmtl", "lsam"))]
    arms = [arm for arm in arms if ARMS[arm][1].get("groups", 0) < len(case.tasks)]
    engines = {
        (arm, alpha): engine_of(case, arm, alpha=alpha)
        for arm in arms
        for alpha in ((0.0, 0.5) if "alpha" in PRESETS[ARMS[arm][0]].options else (None,))
    }
    perturb = samo.Perturbation(RHO, local=samo.ExactGradient())
    joined = samo.Engine(case.model, case.tasks, aggregator="ls", perturbation=perturb)
    trainer = engine_of(case, "gsam")
    optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-3)
    stream = chain.from_iterable(case.batches() for _ in iter(int, 1))
    lines: list[list[object]] = [["case", "step", "arm", "alpha", "with_exact", "with_joined"]]
    at = {round(steps * (i + 1) / points) - 1 for i in range(points)}
    for step, losses in zip(range(steps), stream, strict=False):
        if step in at or step + 1 in at:
            exact = perturbations(engines["lsam", None], case, losses)
            both = perturbations(joined, case, losses)
            for (arm, alpha), engine in engines.items():
                found = perturbations(engine, case, losses)
                if step in at:
                    cosines = [_cosine(found, exact), _cosine(found, both)]
                    lines.append([name, step, arm, "" if alpha is None else alpha, *cosines])
        optimizer.zero_grad()
        trainer.backward(losses)
        optimizer.step()
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / f"quality-{name}.csv", lines)
    _quality_table(name, steps, lines, out)


def _cosine(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Returns the mean cosine over the tasks."""
    return statistics.fmean(
        F.cosine_similarity(found[task], wanted[task], dim=0).item() for task in wanted
    )


def _quality_table(name: str, steps: int, lines: list[list[Any]], out: Path) -> None:
    thirds = ("first third", "second", "last")
    table = [
        f"{name}: {CASES[name].__doc__} Mean cosine of ε_i with ρ ∇l_i / ‖∇l_i‖ by thirds of "
        f"{steps} steps, and (last column, over all) with the ε_i of the exact one at α = 0.5.",
        "",
        "| estimator | α | " + " | ".join(thirds) + " | with exact at α = 0.5 |",
        "| --- " * 6 + "|",
    ]
    for arm, alpha in dict.fromkeys((line[2], line[3]) for line in lines[1:]):
        mine = [line for line in lines[1:] if (line[2], line[3]) == (arm, alpha)]
        cells = []
        for third in range(3):
            values = [line[4] for line in mine if 3 * line[1] // steps == third]
            cells.append(f"{statistics.fmean(values):.3f}" if values else "–")
        cells.append(f"{statistics.fmean(line[5] for line in mine):.3f}")
        table.append(f"| {arm} | {'' if alpha == '' else alpha} | " + " | ".join(cells) + " |")
    write_text(out / f"quality-{name}.md", table)


def cost(
    name: str,
    data: Path | None,
    rounds: int,
    arms: Sequence[str],
    out: Path,
    methods: Sequence[str] = ("ls", "fairgrad"),
) -> None:
    """Times steps of all arms in alternation, and writes the median ratios to ERM."""
    result = {method: ratios(name, data, rounds, arms, method) for method in methods}
    lines = [
        f"{name}: {CASES[name].__doc__} Processor time of a step, {rounds} rounds of all in "
        f"alternation, one thread; median of the ratios to erm within a round (lowest, highest).",
        f"{platform.machine()}, torch {torch.__version__}.",
        "",
        "| estimator | " + " | ".join(result) + " |",
        "| --- " * (1 + len(result)) + "|",
    ]
    for arm in next(iter(result.values())):
        cells = [
            f"{statistics.median(r[arm]):.2f} ({min(r[arm]):.2f}, {max(r[arm]):.2f})"
            for r in result.values()
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    out.mkdir(parents=True, exist_ok=True)
    records.write_json(out / f"cost-{name}.json", result)
    write_text(out / f"cost-{name}.md", lines)


def ratios(
    name: str, data: Path | None, rounds: int, arms: Sequence[str], method: str
) -> dict[str, list[float]]:
    """Returns the ratios of each arm's processor time to ERM's in each round, after a warm-up."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = CASES[name](data)
    arms = [arm for arm in arms if ARMS[arm][1].get("groups", 0) < len(case.tasks)]
    engines = {arm: engine_of(case, arm, method) for arm in dict.fromkeys(["erm", *arms])}
    stream = chain.from_iterable(case.batches() for _ in iter(int, 1))
    times: dict[str, list[float]] = {arm: [] for arm in engines}
    for round_, losses in zip(range(rounds + 1), stream, strict=False):
        for arm, engine in engines.items():
            case.model.zero_grad()
            begin = time.process_time()
            engine.backward(losses)
            spent = time.process_time() - begin
            print(f"{method}, round {round_}, {arm}: {1e3 * spent:.1f} ms", flush=True)
            if round_:
                times[arm].append(spent)
    return {
        arm: [t / erm for t, erm in zip(times[arm], times["erm"], strict=True)] for arm in engines
    }


def write_text(file: Path, lines: Sequence[str]) -> None:
    """Prints lines, and writes them to a file."""
    text = "\n".join(lines) + "\n"
    print(text, flush=True)
    records.write_text(file, text)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["quality", "cost"])
    parser.add_argument("--case", choices=list(CASES), default="multifashion")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--points", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--arms", default=";".join(ARMS), help="separated by semicolons")
    parser.add_argument("--methods", default="ls,fairgrad")
    given = parser.parse_args()
    arms = [arm.strip() for arm in given.arms.split(";")]
    if given.part == "quality":
        quality(given.case, given.data, given.steps, given.points, arms, given.out)
    else:
        cost(given.case, given.data, given.rounds, arms, given.out, given.methods.split(","))


if __name__ == "__main__":
    main()
