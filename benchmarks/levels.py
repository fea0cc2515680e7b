"""Compares task gradients at the representation and at the parameters: test metric and time.

    python benchmarks/levels.py --data DIR --runs runs/levels

DIR contains ``tables/qm9_features.parquet``. One process, one thread; repeat an interrupted command
to continue. Trains ``fairgrad``, ``mgda`` and ``upgrad`` at both levels, and ``ls`` as a reference,
without a perturbation, with Adam and a cosine schedule.

Selection. The learning rates are a middle one times powers of two, 1/2 to 2 at first. The best has
the highest mean score after the last epoch, on validation data, over seeds 0, 1, ... While the best
of a level of a method is the lowest or the highest rate, the rates of both levels are extended by
one: both have the same runs. Test seeds are 100, 101, ...; selection does not use test data.

Scores, all of the last epoch:

- ``digits``, ``digits-domains``, ``questions``: test accuracy (%), mean of the tasks.
- ``qm9-features``, ``scenes``: Δm (%, lower is better) of the mean absolute errors and of mIoU,
  absolute error of depth and mean angle. The baseline is the mean of ``ls`` over the same seeds: on
  test data at its chosen rate; on validation data at the middle rate.

Contrasts, fixed before the runs: representation − parameter, paired by seed, for each data set and
method, with 95 % confidence intervals (Student's t). The same at the epoch with the best validation
score is secondary. In ``digits-domains``, each task has its own inputs, so that no node is shared
and the two levels are the same step: a control. Times are of one thread's processor, of all
training steps of a test run, without evaluation; the two levels of a seed run one after the other.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute
import pyarrow.parquet
import torch
from estimators import write_text  # type: ignore[import-not-found]
from questions import table  # type: ignore[import-not-found]
from torch import Generator, Tensor, nn

import samo
from aggregation import machine  # type: ignore[import-not-found]
from samo import benchmarks
from samo.benchmarks import Benchmark, Split
from samo.engine import Level
from samo.metrics import delta_m
from samo.records import read_json, write_json
from samo.report import Spread
from samo.report.tables import format_difference, write_lines

RESULTS = Path(__file__).parent / "results" / "levels"
METHODS = ("ls", "fairgrad", "mgda", "upgrad")
LEVELS: tuple[Level, ...] = ("parameter", "representation")
FIRST_TEST_SEED, FURTHEST = 100, 6
HEADS = (
    *("method", "lr, parameter", "parameter", "lr, representation", "representation"),
    *("difference", "difference, best epoch", "seeds", "s, parameter", "s, representation"),
    "parameter / representation",
)
FIELDS = ("data", "stage", "method", "level", "lr", "seed")
SCORES = ("validation", "test", "test_best_epoch", "seconds")
TARGETS = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u298", "h298", "g298", "cv")


@dataclass(frozen=True)
class DataSet:
    """A benchmark and how it is trained.

    Attributes:
        benchmark: Creates the benchmark.
        epochs: The number of epochs.
        batch_size: The number of examples in a step.
        lr: The middle of the first learning rates.
        selecting: The number of seeds to choose the learning rate with.
        testing: The number of test seeds.
        metric: The metric of each task; its first one if None.
        relative: Whether the score is Δm, else the mean of the metrics.
    """

    benchmark: Callable[[], Benchmark]
    epochs: int
    batch_size: int
    lr: float
    selecting: int = 2
    testing: int = 10
    metric: str | None = None
    relative: bool = False

    def name_of(self, of: Benchmark, task: str) -> str:
        """Returns the name of a task's metric."""
        return self.metric or next(iter(of.metrics[task]))


def data_sets(data: Path, runs: Path) -> dict[str, DataSet]:
    """Returns the data sets, the cheapest first."""

    def molecules() -> Benchmark:
        whole = pyarrow.parquet.read_table(data / "tables" / "qm9_features.parquet")
        training = pyarrow.compute.equal(whole["split"], "train")
        rest = whole.filter(pyarrow.compute.invert(training))
        some = whole.filter(training).take(
            torch.randperm(9000, generator=Generator().manual_seed(0))[:3000].tolist()
        )
        file = runs / "qm9_features.parquet"
        pyarrow.parquet.write_table(pyarrow.concat_tables([some, rest]), file)
        return benchmarks.create("tabular", data=file, tasks=TARGETS, split_column="split")

    def questions() -> Benchmark:
        file = runs / "questions.csv"
        return benchmarks.create(
            "tabular", data=file, tasks=table(file), split_column="part", width=256
        )

    def rooms() -> Benchmark:
        return benchmarks.create("scenes", images=80, held_out=40, size=(64, 64))

    return {
        "digits-domains": DataSet(
            lambda: benchmarks.create("digits-domains"), epochs=20, batch_size=32, lr=3e-3
        ),
        "digits": DataSet(
            lambda: benchmarks.create("digits"), epochs=20, batch_size=64, lr=3e-3, testing=16
        ),
        "qm9-features": DataSet(
            molecules, epochs=20, batch_size=128, lr=2e-3, metric="MAE", relative=True
        ),
        "questions": DataSet(questions, epochs=10, batch_size=128, lr=6e-3),
        "scenes": DataSet(
            rooms, epochs=3, batch_size=4, lr=4e-3, selecting=1, testing=3, relative=True
        ),
    }


# -- One run --------------------------------------------------------------------------------------


def train(
    of: DataSet, made: Benchmark, method: str, level: Level, lr: float, seed: int
) -> dict[str, Any]:
    """Trains a model; returns the metrics of each epoch, and the seconds of all steps."""
    torch.manual_seed(seed)
    model, tasks = made.model(), list(made.tasks)
    own = None if made.own is None else {task: getattr(model, made.own)[task] for task in tasks}
    engine = samo.ERM(model, tasks, aggregator=method, level=level, own=own, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, of.epochs)
    batches = made.batches("train", tasks, of.batch_size, Generator().manual_seed(seed))
    seconds, history = 0.0, []
    for _ in range(of.epochs):
        for batch in batches:

            def losses(tasks: Sequence[str], batch: Any = batch) -> dict[str, Tensor]:
                return made.losses(model, batch, tasks)

            start = time.process_time()
            optimizer.zero_grad()
            engine.backward(losses)
            optimizer.step()
            seconds += time.process_time() - start
        schedule.step()
        history.append({s: evaluate(of, made, model, s) for s in ("validation", "test")})
    return {"seconds": seconds, "history": history}


def evaluate(of: DataSet, made: Benchmark, model: nn.Module, split: Split) -> dict[str, float]:
    """Returns the metric of each task."""
    metrics = {task: made.metrics[task][of.name_of(made, task)] for task in made.tasks}
    meters = {task: metric.make() for task, metric in metrics.items()}
    model.eval()
    with torch.no_grad():
        for batch in made.batches(split, made.tasks, batch_size=1024):
            for task, (prediction, target) in made.outputs(model, batch, made.tasks).items():
                meters[task].update(prediction, target)
    model.train()
    return {task: metrics[task].scale * float(m.compute()) for task, m in meters.items()}


# -- Selection and test ---------------------------------------------------------------------------


class Tested(NamedTuple):
    """Scores on test data, of the last epoch and of the best one, and the seconds of all steps."""

    last: float
    best: float
    seconds: float


@dataclass
class Study:
    """All runs of a data set, those on disk and the missing ones.

    Attributes:
        of: The data set.
        runs: Their directory.
        made: The benchmark.
        rows: A line for each run that was used.
    """

    of: DataSet
    runs: Path
    made: Benchmark = field(init=False)
    rows: list[list[object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs.mkdir(parents=True, exist_ok=True)
        self.made = self.of.benchmark()

    def run(self, method: str, level: Level, power: int, seed: int) -> dict[str, Any]:
        """Reads a run, or trains it."""
        lr = self.of.lr * 2.0**power
        file = self.runs / f"{method}-{level}-lr-{lr:g}-seed-{seed}.json"
        if not file.exists():
            start = time.perf_counter()
            write_json(file, train(self.of, self.made, method, level, lr, seed))
            print(f"{file}: {time.perf_counter() - start:.1f} s", flush=True)
        return dict(read_json(file))

    def baseline(self, split: Split, power: int, seeds: Sequence[int]) -> dict[str, float] | None:
        """Returns the means of ``ls`` over some seeds; None if the score is no Δm."""
        if not self.of.relative:
            return None
        runs = [self.run("ls", LEVELS[0], power, seed) for seed in seeds]
        ends = [run["history"][-1][split] for run in runs]
        return {task: statistics.fmean(end[task] for end in ends) for task in self.made.tasks}

    def score(self, values: Mapping[str, float], baseline: Mapping[str, float] | None) -> float:
        """Returns the mean of the metrics, or Δm."""
        if baseline is None:
            return statistics.fmean(values.values())
        up = {
            task: self.made.metrics[task][self.of.name_of(self.made, task)].higher_is_better
            for task in values
        }
        return delta_m(values, baseline, up)

    def chosen(self, method: str, levels: Sequence[Level]) -> dict[Level, int]:
        """Chooses the power of two of each level's learning rate on validation data."""
        seeds = range(self.of.selecting)
        baseline, sign = self.baseline("validation", 0, seeds), -1 if self.of.relative else 1
        powers, scores = [-1, 0, 1], {}
        while True:
            for power, seed, level in product(powers, seeds, levels):
                end = self.run(method, level, power, seed)["history"][-1]["validation"]
                scores[level, power, seed] = self.score(end, baseline)
            means = {
                (level, power): sign * statistics.fmean(scores[level, power, s] for s in seeds)
                for level, power in product(levels, powers)
            }
            best = {level: max((means[level, p], p) for p in powers)[1] for level in levels}
            beyond = {p for b in best.values() for p in (b - 1, b + 1)} - set(powers)
            if not beyond or max(map(abs, beyond)) > FURTHEST:
                break
            powers = sorted([*powers, *beyond])
        for (level, power, seed), score in scores.items():
            lr = self.of.lr * 2.0**power
            self.rows.append(["selection", method, level, lr, seed, score, "", "", ""])
        return best

    def results(self) -> list[str]:
        """Trains the missing runs; returns the lines of the table."""
        chosen = {m: self.chosen(m, LEVELS[:1] if m == "ls" else LEVELS) for m in METHODS}
        arms = [(method, *arm) for method, best in chosen.items() for arm in best.items()]
        seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + self.of.testing)
        # Seed by seed, so that load affects all arms alike.
        runs = {(*arm[:2], seed): self.run(*arm, seed) for seed, arm in product(seeds, arms)}
        reference, sign = chosen["ls"][LEVELS[0]], -1 if self.of.relative else 1
        test = self.baseline("test", reference, seeds)
        validation = self.baseline("validation", reference, seeds)
        found: dict[tuple[str, Level], list[Tested]] = {}
        for (method, level, power), seed in product(arms, seeds):
            run = runs[method, level, seed]
            ends = run["history"]
            best = max(ends, key=lambda end: sign * self.score(end["validation"], validation))
            last, selected = (self.score(end["test"], test) for end in (ends[-1], best))
            tested = Tested(last, selected, run["seconds"])
            found.setdefault((method, level), []).append(tested)
            lr = self.of.lr * 2.0**power
            self.rows.append(["test", method, level, lr, seed, "", *tested])
        return [
            line(method, [found[method, level] for level in best], self.of, list(best.values()))
            for method, best in chosen.items()
        ]


def line(method: str, arms: Sequence[list[Tested]], of: DataSet, powers: Sequence[int]) -> str:
    """Formats the line of a method, which has been trained at one level or at both."""
    values, differences, ratio = [""] * 4, [""] * 2, ""
    for i, (arm, power) in enumerate(zip(arms, powers, strict=True)):
        spread = Spread(tuple(run.last for run in arm))
        mean = round(spread.mean, 2) or 0.0  # Δm of ls is zero, up to rounding
        values[2 * i] = f"{of.lr * 2.0**power:g}"
        values[2 * i + 1] = f"{mean:.2f} ± {spread.interval:.2f}".replace("-", "−")
    if len(arms) == 2:
        pairs = list(zip(*arms, strict=True))
        last, best = ([b[i] - a[i] for a, b in pairs] for i in (0, 1))
        differences = [format_difference(Spread(tuple(values))) for values in (last, best)]
        ratio = f"{statistics.median(a.seconds / b.seconds for a, b in pairs):.2f}"
    seconds = [f"{statistics.median(run.seconds for run in arm):.1f}" for arm in arms]
    seconds += [""] * (2 - len(arms))
    return f"| {' | '.join([method, *values, *differences, str(len(arms[0])), *seconds, ratio])} |"


def main() -> None:
    """Trains the missing runs, and writes a table after each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the directory with tables/")
    parser.add_argument("--runs", type=Path, default=Path("runs/levels"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="the directory of the tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.runs.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = [
        "Task gradients at the representation and at the parameters: the score of the last epoch "
        "on test data (mean and half the width of its 95 % confidence interval), differences "
        "representation − parameter paired by seed, median seconds of a run's steps (processor "
        "time of one thread) and the median of their ratios. See `benchmarks/levels.py`.",
        "",
        f"{machine()}.",
    ]
    rows: list[list[object]] = [[*FIELDS, *SCORES]]
    for name, of in data_sets(given.data, given.runs).items():
        study = Study(of, given.runs / name)
        found = study.results()
        score = "Δm against `ls` (%) ↓" if of.relative else "mean accuracy (%) ↑"
        lines += ["", f"`{name}`, K = {len(study.made.tasks)}: {score}", ""]
        lines += [f"| {' | '.join(HEADS)} |", "| --- " + "| ---: " * (len(HEADS) - 1) + "|", *found]
        rows += [[name, *row] for row in study.rows]
        write_text(given.out / "table.md", lines)
        write_lines(given.out / "runs.csv", rows)


if __name__ == "__main__":
    main()
