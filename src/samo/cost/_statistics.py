"""Statistics of times and their ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MedianRange:
    """A median with an interval.

    Attributes:
        median: The median.
        low: The lower end.
        high: The upper end.
    """

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> MedianRange:
    """Returns the median and the quartiles of at least one number.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 9.0])
        MedianRange(median=3.0, low=2.0, high=4.0)
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return MedianRange(median, low, high)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> MedianRange:
    """Returns the ratio of two times that were measured in alternation.

    This is the median over the rounds of their ratio, with its distribution-free 95 % confidence
    interval (from the binomial distribution of the order statistics); with fewer than six rounds,
    the interval is from the lowest to the highest ratio.

    Args:
        ours: The time in the numerator, for each round.
        theirs: The time in the denominator. Surplus rounds of either are ignored.

    Returns:
        The median and the interval.

    Example:
        >>> median_ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0, 5.0])
        MedianRange(median=3.0, low=2.0, high=4.0)
    """
    from scipy.stats import quantile_test

    rounds = min(len(ours), len(theirs))
    ratios = np.divide(ours[:rounds], theirs[:rounds])
    interval: Any = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
    low = float(ratios.min()) if np.isnan(interval.low) else float(interval.low)
    high = float(ratios.max()) if np.isnan(interval.high) else float(interval.high)
    return MedianRange(float(np.median(ratios)), low, high)
