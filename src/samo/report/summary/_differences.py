"""Differences of the presets to plain training, paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ._rows import Difference, Row, ScoreName, Spread, presets_of


def differences(rows: Sequence[Row]) -> tuple[Difference, ...]:
    """Pairs each preset with plain training (`plain_rows`) of the same method and seed.

    Args:
        rows: The arms.

    Returns:
        The differences of each preset: for each method, and over all methods if there are several.
    """
    plain = plain_rows(rows)
    compared = [row for row in rows if row.method in plain and row is not plain[row.method]]
    found = []
    for preset in presets_of(compared):
        arms = [row for row in compared if row.preset == preset]
        found += [_difference([(arm, plain[arm.method])]) for arm in arms]
        if len(arms) > 1:
            found.append(_difference([(arm, plain[arm.method]) for arm in arms]))
    return tuple(found)


def plain_rows(rows: Sequence[Row]) -> dict[str, Row]:
    """Returns plain training (erm) by method: at the parameters, if it was trained there.

    The weights are the raw ones.
    """
    erm = [row for row in rows if row.sharpness == "erm" and not row.baseline]
    plain = [row for row in erm if row.weights == "raw"]
    # The last row of a method stays.
    return {row.method: row for row in sorted(plain, key=lambda row: row.level == "parameter")}


def _difference(pairs: Sequence[tuple[Row, Row]]) -> Difference:
    return Difference(
        preset=pairs[0][0].preset,
        methods=tuple(row.method for row, _ in pairs),
        average=by_seed(pairs, "average"),
        delta_m=by_seed(pairs, "delta_m"),
    )


def by_seed(pairs: Sequence[tuple[Row, Row]], score: ScoreName) -> Spread | None:
    """Computes the differences between arms with the same seed.

    Args:
        pairs: One or more pairs of an arm and its reference.
        score: The score.

    Returns:
        The differences by seed, means over the pairs; None if no seed is common to all of them.
    """
    values = [(_values(row, score), _values(plain, score)) for row, plain in pairs]
    seeds = sorted(set.intersection(*(set(v) for pair in values for v in pair)))
    if not seeds:
        return None
    return Spread(
        tuple(statistics.fmean(row[seed] - plain[seed] for row, plain in values) for seed in seeds)
    )


def _values(row: Row, score: ScoreName) -> dict[int, float]:
    spread: Spread | None = getattr(row, score)
    if spread is None:
        return {}
    return {run["config"]["seed"]: v for run, v in zip(row.runs, spread.values, strict=True)}
