"""The summary of a comparison: its columns and rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ...records.schema import of_weights, preset_at, weights_of

Key = tuple[str, str]
"""A task and one of its metrics."""
ScoreName = Literal["average", "delta_m"]


@dataclass(frozen=True)
class Spread:
    """The values of a quantity, one per seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return math.fsum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (divided by n − 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean (Student's t distribution).

        None for a single value.
        """
        if self.std is None:
            return None
        from scipy.stats import t  # seldom needed, and slow to import

        n = len(self.values)
        return float(t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)

    def text(self, decimals: int = 2) -> str:
        """Formats mean and standard deviation, such as ``"92.00 ± 2.83"``."""
        spread = "" if self.std is None else f" ± {self.std:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{spread}"

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True)
class Entry:
    """One run of a comparison.

    Attributes:
        config: Its configuration.
        baseline: Whether it is a single-task baseline.
        results: The content of its ``results.json``; None if it is not finished.
        weights: The weights that it is reported for; all that it scores if None.
    """

    config: Mapping[str, Any]
    baseline: bool
    results: Mapping[str, Any] | None
    weights: Sequence[str] | None = None

    def by_weights(self) -> dict[str, Entry]:
        """Divides the run into one for each kind of weights that it is reported for."""
        return {
            name: Entry(
                self.config, self.baseline, self.results and of_weights(self.results, name), [name]
            )
            for name in self.weights or weights_of(self.config)
        }


@dataclass(frozen=True)
class Column:
    """A metric of a task.

    Attributes:
        task: The task.
        metric: The metric.
        unit: The unit.
        higher_is_better: Whether higher values are better.
    """

    task: str
    metric: str
    unit: str
    higher_is_better: bool

    @property
    def key(self) -> Key:
        """Task and metric."""
        return self.task, self.metric

    @property
    def label(self) -> str:
        """The metric with its unit."""
        return f"{self.metric} ({self.unit})" if self.unit else self.metric


def first_metrics(columns: Iterable[Column]) -> list[Column]:
    """Selects the first metric of each task, the one used on validation data."""
    first: dict[str, Column] = {}
    for column in columns:
        first.setdefault(column.task, column)
    return list(first.values())


@dataclass(frozen=True)
class Row:
    """One arm: a method with a preset at a level, the weights that are scored and the chosen ρ.

    All scores are on test data.

    Attributes:
        method: The aggregation method, or ``"stl"``.
        sharpness: The preset.
        level: Where task gradients are compared.
        weights: ``"raw"``, or ``"ema"`` for averaged weights.
        rho: The chosen ρ; None if the preset has none.
        runs: The results of its finished runs, one per seed.
        unfinished: The number of runs of this arm that failed or are not finished, at any ρ.
        metrics: Each metric, over the seeds.
        average: The mean of the tasks' first metrics; None if these are of different kinds.
        mean_rank: The rank of this arm among all arms, mean over the metrics; by means over the
            seeds, 1 for the best, ties share their ranks.
        delta_m: Δm in percent against the single-task baselines (their mean over the seeds), or
            against published ones.
        step_ratio: The median time of a step, relative to plain training with the same method (see
            `plain_rows`); None for single-task training.
    """

    method: str
    sharpness: str
    level: str
    weights: str
    rho: float | None
    runs: tuple[Mapping[str, Any], ...]
    unfinished: int
    metrics: Mapping[Key, Spread]
    average: Spread | None = None
    mean_rank: float | None = None
    delta_m: Spread | None = None
    step_ratio: float | None = None

    @property
    def baseline(self) -> bool:
        """Whether this is single-task training."""
        return self.method == "stl"

    @property
    def preset(self) -> str:
        """The preset with the level and the weights, if they are not the default."""
        return preset_at(self.sharpness, self.level, self.weights)

    @property
    def names(self) -> tuple[str, str | None]:
        """The method and preset as tables show them."""
        if self.baseline:
            return "STL", preset_at("", self.level, self.weights) or None
        return self.method, self.preset

    @cached_property
    def step_ms(self) -> float | None:
        """The median time of a step in milliseconds, mean over the seeds."""
        times = self.timings("step_ms")
        return statistics.mean(times) if times else None

    def timings(self, name: str) -> list[float]:
        """The values of a timing, such as ``"step_ms"``, of the runs that have it."""
        found = (run["timing"].get(name) for run in self.runs)
        return [value for value in found if value is not None]


def presets_of(rows: Iterable[Row]) -> list[str]:
    """Returns the presets, each followed by itself with averaged weights and at the other level."""
    arms = [row for row in rows if not row.baseline]
    names = [row.sharpness for row in arms]
    ordered = sorted(arms, key=lambda r: (names.index(r.sharpness), r.preset))
    return list(dict.fromkeys(row.preset for row in ordered))


@dataclass(frozen=True)
class Difference:
    """The difference between two arms with the same seeds.

    Attributes:
        preset: The preset with the level and the weights, if they are not the default.
        reference: The arm that it is compared with, named in the same way.
        methods: The methods. The differences of a seed are averaged over them, because they share
            the initial weights and the batches.
        average: The difference of the average, by seed.
        delta_m: The difference of Δm, by seed.
    """

    preset: str
    reference: str
    methods: tuple[str, ...]
    average: Spread | None
    delta_m: Spread | None


@dataclass(frozen=True)
class Score:
    """A score over all tasks: its attribute in rows and differences, its label and direction."""

    name: ScoreName
    label: str
    higher_is_better: bool

    def of(self, one: Row | Difference) -> Spread | None:
        """The score of a row or a difference."""
        return one.average if self.name == "average" else one.delta_m


@dataclass(frozen=True)
class Quoted:
    """A row of a published table, in the columns of a comparison and with the printed digits.

    Attributes:
        label: The method's name in the paper.
        source: The index of its source in `Summary.sources`.
        metrics: Its metrics.
        average: The average.
        delta_m: Δm in percent.
    """

    label: str
    source: int
    metrics: Mapping[Key, str]
    average: str | None
    delta_m: str | None


@dataclass(frozen=True)
class Summary:
    """The summary of a comparison.

    Attributes:
        benchmark: The benchmark.
        seeds: The number of seeds.
        columns: The metrics.
        rows: The arms, single-task baselines first.
        ema: The decay of the averaged weights; 0 if none are scored.
        average_last: The number of last epochs that the scores of a run are averaged over; 0 for
            the scores of the epoch that is best on validation data.
        grid: The validation scores by ρ of each method and preset (with its level) that has a ρ,
            over the seeds that all ρ share.
        contrasts: The differences that were asked for by name.
        differences: The differences of each preset to plain training, for each method and over all.
        baseline: The source of the published single-task numbers that Δm refers to; ``""`` if
            the comparison has its own.
        quoted: Published results.
        sources: The sources of these.
        remarks: Further remarks on the numbers.
    """

    benchmark: str
    seeds: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    average_last: int
    ema: float
    grid: Mapping[tuple[str, str], Mapping[float, Spread]]
    differences: tuple[Difference, ...] = ()
    contrasts: tuple[Difference, ...] = ()
    baseline: str = ""
    quoted: tuple[Quoted, ...] = ()
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def methods(self) -> list[str]:
        """The methods, without single-task training."""
        return list(dict.fromkeys(row.method for row in self.rows if not row.baseline))

    @property
    def presets(self) -> list[str]:
        """The presets of these methods, with their levels."""
        return presets_of(self.rows)

    @property
    def at_representation(self) -> bool:
        """Whether some rows compare task gradients at the representation."""
        return any(row.level != "parameter" for row in self.rows)

    def scores(self, of: Sequence[Row | Difference]) -> list[Score]:
        """The scores over all tasks that some rows or differences have."""
        known = [Score("average", f"average {c.label}", c.higher_is_better) for c in self.columns]
        known = [*known[:1], Score("delta_m", "Δm (%)", higher_is_better=False)]
        return [score for score in known if any(map(score.of, of))]

    def arms(self, method: str) -> list[Row]:
        """The rows of a method that have finished runs."""
        return [row for row in self.rows if row.method == method and row.runs]
