"""The settings that a search has chosen on validation data, and the runs that compare them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..records import write_json, write_text
from ..records.schema import of_weights, preset_at, reported, weights_of
from ._plan import FIRST_TUNING_SEED, Cell, baselines, check_seeds
from ._space import Arm, Range, Space

_NEAR = 0.05  # the share of a range that counts as its edge


class Search(Protocol):
    """A search for the settings of arms."""

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms, each with its search space."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The benchmark's tasks."""
        ...


@dataclass(frozen=True)
class Best:
    """The best trial of an arm.

    Attributes:
        arm: The method and preset.
        weights: The weights that are scored: each kind has a best trial of its own.
        trial: The directory of the trial, relative to that of the search.
        score: Its score on validation data.
        params: The chosen values.
        trials: The number of trials of the arm so far.
        failed: The number of trials that diverged or failed.
    """

    arm: Arm
    weights: str
    trial: str
    score: float
    params: Mapping[str, Any]
    trials: int
    failed: int

    @property
    def names(self) -> tuple[str, str]:
        """Method and preset, with the level and the weights if they are not the default."""
        return self.arm.method, preset_at(self.arm.sharpness, self.arm.level, self.weights)

    @property
    def edges(self) -> list[str]:
        """The settings whose chosen value is at the edge of what was searched."""
        return edges(self.arm.space, self.params)


def edges(space: Space, params: Mapping[str, Any]) -> list[str]:
    """Names the settings whose value is the first or last of a list, or near an end of a range.

    Settings with a single value, and those that are not numbers, have no edge.

    Args:
        space: The lists and ranges.
        params: The chosen values.

    Returns:
        The names.

    Example:
        >>> from samo.training._space import parse
        >>> edges({"lr": parse("lr", "1e-3,2e-3"), "rho": parse("rho", "0.1")}, {"lr": 0.002})
        ['lr']
    """
    found = []
    for name, values in space.items():
        if name not in params:
            continue
        value = params[name]
        if isinstance(values, Range):
            scale = math.log if values.log else float
            low, high = scale(values.low), scale(values.high)
            share = (scale(value) - low) / (high - low)
            at_edge = not _NEAR < share < 1 - _NEAR
        else:
            numbers = [float(v) for v in values.values if isinstance(v, int | float)]
            several = 1 < len(numbers) == len(values.values)
            at_edge = several and value in {min(numbers), max(numbers)}
        if at_edge:
            found.append(name)
    return found


def tuning_seeds(number: int) -> range:
    """Returns the seeds of trials, which no run of a comparison has."""
    return range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + number)


def scores_of(results: Mapping[str, Any]) -> dict[str, float]:
    """The validation scores of a run by its weights."""
    config = results["config"]
    return {name: reported(of_weights(results, name))["score"] for name in weights_of(config)}


def write_search(
    out: Path, best: Sequence[Best], settings: Sequence[str], trials: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the best trials (``best.json``) and all trials (``trials.csv``).

    Args:
        out: The directory of the search.
        best: The best trials.
        settings: The names of the settings.
        trials: The columns of each trial by name.
    """
    chosen = {
        "/".join(b.names): {
            "trial": b.trial,
            "trials": b.trials,
            "score": b.score,
            "params": dict(b.params),
            "edges": b.edges,
        }
        for b in best
    }
    write_json(out / "best.json", chosen)
    text = io.StringIO()
    weights = dict.fromkeys(b.weights for b in best if b.weights != "raw")
    averaged = [f"score+{name}" for name in weights]
    columns = ["trial", "state", "score", *averaged, *settings, "failure"]
    lines = csv.DictWriter(text, columns, extrasaction="ignore")
    lines.writeheader()
    lines.writerows(trials)
    write_text(out / "trials.csv", text.getvalue())


def finals(search: Search, best: Sequence[Best], seeds: int, *, stl: bool = True) -> list[Cell]:
    """Lists the runs that compare the chosen settings over several seeds.

    Args:
        search: The search.
        best: The best trial of each arm and its weights.
        seeds: The number of seeds, from 0; trials have others.
        stl: Whether to train single-task baselines, with the settings that all arms share and the
            search does not choose.

    Returns:
        The runs, for `compare`. Each is reported for the weights that its settings are best for.

    Raises:
        RunError: If there are no seeds, or more than precede those of trials.
    """
    check_seeds(seeds)
    common = search.arms[0].common
    cells = [cell for seed in range(seeds) for cell in baselines(common, search.tasks, seed)]
    by_trial: dict[str, list[Best]] = {}
    for one in best:
        by_trial.setdefault(one.trial, []).append(one)
    chosen = [
        same[0].arm.cell(trial, same[0].params, seed, tuple(one.weights for one in same))
        for trial, same in by_trial.items()
        for seed in range(seeds)
    ]
    return (cells if stl else []) + chosen
