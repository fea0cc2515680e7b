"""Times that vary, and their ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """A middle, and how far things are from it.

    Attributes:
        median: The middle.
        low: The lower end.
        high: The upper end.
    """

    median: float
    low: float
    high: float


def quartiles(values: Sequence[float]) -> Spread:
    """The median and the quartiles.

    Args:
        values: At least one number.

    Returns:
        The three.

    Example:
        >>> quartiles([4.0, 1.0, 2.0, 3.0, 9.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Spread(median, low, high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times longer one of two things took that were measured in turn.

    The median of the ratios of each round, with its distribution-free confidence interval of 95 %
    (from the binomial distribution of the order statistics); of fewer than six rounds, with the
    lowest and the highest ratio.

    Args:
        ours: The times of the one.
        theirs: The times of the other, by the same rounds. What either has more is left out.

    Returns:
        The median and the interval.

    Example:
        >>> ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    from scipy.stats import quantile_test

    rounds = min(len(ours), len(theirs))
    ratios = np.divide(ours[:rounds], theirs[:rounds])
    interval: Any = quantile_test(ratios, q=1.0, p=0.5).confidence_interval(0.95)
    low = float(ratios.min()) if np.isnan(interval.low) else float(interval.low)
    high = float(ratios.max()) if np.isnan(interval.high) else float(interval.high)
    return Spread(float(np.median(ratios)), low, high)
