"""Differences of the presets to plain training, paired by seed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...records.schema import sides
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
        found += _by_method([(arm, plain[arm.method]) for arm in arms])
    return tuple(found)


def contrasts(rows: Sequence[Row], named: Iterable[str]) -> tuple[Difference, ...]:
    """Pairs the arms of each contrast by seed.

    Args:
        rows: The arms.
        named: The contrasts (see `samo.records.schema.sides`).

    Returns:
        The differences of each contrast: for each method, and over all if there are several; one
        without values if there are no such arms.

    Raises:
        RunError: If a contrast is malformed.
    """
    arms = {(row.method, row.preset): row for row in rows if not row.baseline}
    by_name = {f"{method}/{preset}": row for (method, preset), row in arms.items()}
    found: list[Difference] = []
    for one, other in map(sides, named):
        if "/" in one:
            two = [row for key in (one, other) if (row := by_name.get(key))]
            pairs = [(two[0], two[1])] if len(two) > 1 else []
        else:
            both = [method for method, preset in arms if preset == one and (method, other) in arms]
            pairs = [(arms[method, one], arms[method, other]) for method in both]
        made = _by_method(pairs) or [Difference(one, other, (), None, None)]
        found += [replace(difference, preset=one, reference=other) for difference in made]
    return tuple(found)


def _by_method(pairs: Sequence[tuple[Row, Row]]) -> list[Difference]:
    """The difference of each pair, and of all together if there are several."""
    together = [_difference(pairs)] if len(pairs) > 1 else []
    return [*(_difference([pair]) for pair in pairs), *together]


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
        reference=pairs[0][1].preset,
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
