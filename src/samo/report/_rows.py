"""What a comparison comes to: its columns and rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Key = tuple[str, str]
"""A task and one of its metrics."""


@dataclass(frozen=True)
class Spread:
    """The values of one figure, by seed."""

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
        """Half the width of the 95 % confidence interval of the mean, by Student's t distribution.

        None for a single value.
        """
        if self.std is None:
            return None
        from scipy.stats import t  # seldom needed, and slow to import

        n = len(self.values)
        return float(t.ppf(0.975, n - 1)) * self.std / math.sqrt(n)

    def text(self, decimals: int = 2) -> str:
        """Words the mean and the standard deviation.

        Args:
            decimals: How many digits to give after the point.

        Returns:
            For instance ``"92.00 ± 2.83"``.
        """
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
        results: What its ``results.json`` holds; None if it is not finished.
    """

    config: Mapping[str, Any]
    baseline: bool
    results: Mapping[str, Any] | None


@dataclass(frozen=True)
class Column:
    """A metric of a task.

    Attributes:
        task: The task.
        metric: The metric.
        unit: The unit.
        higher_is_better: The direction.
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
    """Finds the first metric of each task: the one that decides on validation data.

    Args:
        columns: The metrics.

    Returns:
        One of each task.
    """
    first: dict[str, Column] = {}
    for column in columns:
        first.setdefault(column.task, column)
    return list(first.values())


@dataclass(frozen=True)
class Row:
    """One arm: a method with a preset at the ρ that was chosen. Test scores throughout.

    Attributes:
        method: The aggregation method, or ``"stl"``.
        sharpness: The preset.
        rho: The ρ that was chosen; None without one.
        runs: The results of its finished runs, one a seed.
        unfinished: How many runs of this arm failed or were not finished, at any ρ.
        metrics: Each metric, over the seeds.
        average: The mean over the tasks of each one's first metric, where these are alike.
        mean_rank: The mean over the metrics of the rank of this arm among all arms, by means over
            the seeds, 1 for the best; equal ones share their ranks.
        delta_m: Δm in percent against the single-task baselines (their mean over the seeds), or
            against published ones.
        step_ratio: The median time of a step, relative to plain training with the same method.
    """

    method: str
    sharpness: str
    rho: float | None
    runs: tuple[Mapping[str, Any], ...]
    unfinished: int
    metrics: Mapping[Key, Spread]
    average: Spread | None = None
    mean_rank: float | None = None
    delta_m: Spread | None = None
    step_ratio: float | None = None

    @cached_property
    def step_ms(self) -> float | None:
        """The median time of a step in milliseconds, mean over the seeds."""
        times = self.timings("step_ms")
        return statistics.mean(times) if times else None

    def timings(self, name: str) -> list[float]:
        """Selects one of the figures of time and memory.

        Args:
            name: Which one, such as ``"step_ms"``.

        Returns:
            The figure of each run that has it.
        """
        found = (run["timing"].get(name) for run in self.runs)
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class Difference:
    """What a preset changes against plain training (erm) of the same methods and seeds.

    Attributes:
        sharpness: The preset.
        methods: The methods; the differences of one seed are averaged over them, as they share
            the first weights and the batches.
        average: The difference of the average, by seed.
        delta_m: The difference of Δm, by seed.
    """

    sharpness: str
    methods: tuple[str, ...]
    average: Spread | None
    delta_m: Spread | None


@dataclass(frozen=True)
class Quoted:
    """A row of a published table, in the columns of a comparison and with the digits printed there.

    Attributes:
        label: The method, as it is called there.
        source: Which of the comparison's `sources` it is from, counted from 0.
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
    """A comparison, summed up.

    Attributes:
        benchmark: The benchmark.
        seeds: How many seeds there are.
        columns: The metrics.
        rows: The arms, single-task baselines first.
        average_last: Over how many last epochs the figures of a run are means; 0 where they are
            those of the epoch that is best on validation data.
        grid: For each method and preset that has a ρ, the validation score by ρ and seed, of the
            seeds that all ρ have.
        differences: What each preset changes, method by method and over all of them.
        baseline: Where the single-task numbers behind Δm were published; ``""`` where they are this
            comparison's own.
        quoted: Published results to show beside.
        sources: Where these were published.
        remarks: What else should be said of the numbers.
    """

    benchmark: str
    seeds: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    average_last: int
    grid: Mapping[tuple[str, str], Mapping[float, Spread]]
    differences: tuple[Difference, ...] = ()
    baseline: str = ""
    quoted: tuple[Quoted, ...] = ()
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
