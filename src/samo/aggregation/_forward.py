"""What an aggregator passes on to the weighting that it is made of."""

from __future__ import annotations

from torchjd.aggregation import GramianWeightedAggregator


def of_weighting(name: str) -> property:
    """A property of an aggregator that is its weighting's.

    Args:
        name: The name of both.

    Returns:
        The property.
    """

    def get(self: GramianWeightedAggregator) -> object:
        return getattr(self.gramian_weighting, name)

    def set_(self: GramianWeightedAggregator, value: object) -> None:
        setattr(self.gramian_weighting, name, value)

    return property(get, set_)
