"""Medians and ratios of artificial times."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from samo.cost import median_ratio, quartiles


def test_a_slow_round_does_not_change_the_ratio() -> None:
    load = np.random.default_rng(0).lognormal(0, 1, 50)
    found = median_ratio(list(1.3 * load), list(load))
    assert (found.median, found.low, found.high) == pytest.approx((1.3, 1.3, 1.3))


def test_rounds_are_paired_from_the_first() -> None:
    assert median_ratio([3.0], [2.0, 99.0]).median == 1.5
    assert median_ratio([3.0, 8.0, 1.0], [1.0, 2.0]).median == 3.5


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_interval_of_few_rounds_is_their_range(rounds: int) -> None:
    times = [float(i) for i in range(1, rounds + 1)]
    found = median_ratio(times, [1.0] * rounds)
    assert (found.low, found.high) == (1.0, rounds)


def test_the_interval_covers_the_median_at_its_confidence_level() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = median_ratio(list(generator.lognormal(np.log(1.2), 0.3, 15)), [1.0] * 15)
        hits += found.low <= 1.2 <= found.high
    assert binom.cdf(hits, 400, 0.95) > 1e-3


def test_more_rounds_make_the_interval_narrower() -> None:
    times = np.random.default_rng(2).lognormal(0, 0.3, 400)
    widths = [median_ratio(list(times[:n]), [1.0] * n) for n in (10, 400)]
    assert widths[1].high - widths[1].low < 0.4 * (widths[0].high - widths[0].low)


def test_quartiles_of_five_numbers() -> None:
    found = quartiles([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
