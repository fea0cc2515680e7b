"""Options of the methods: declared with their range, forwarded to a weighting, and printed."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator


def ranged(
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    integer: bool = False,
    vector: bool = False,
) -> Any:
    """Declares an option that is a number in a range. It is checked whenever it is set.

    Setting it to anything else raises ``TypeError`` if the value is not a number, and
    ``ValueError`` if it is out of the range. An infinite end is never included.

    Args:
        low: The lower end of the range.
        high: The upper end.
        open_low: Whether the lower end is excluded.
        open_high: Whether the upper end is excluded.
        integer: Whether the number must be an integer.
        vector: Whether a vector of such numbers is allowed too.

    Returns:
        A descriptor, to be used as a class attribute: ``c: float = ranged(0, 1)``.
    """
    open_high = open_high or math.isinf(high)
    return _Ranged(low, high, open_low, open_high, integer, vector)


@dataclass(eq=False)
class _Ranged:
    """The descriptor of `ranged`. It has no ``__get__``: reads are plain attribute reads."""

    low: float
    high: float
    open_low: bool
    open_high: bool
    integer: bool
    vector: bool

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, method: object, value: Any) -> None:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        interval = f"{left}{self.low:g}, {self.high:g}{right}"
        if self.vector and isinstance(value, Tensor):
            if value.ndim != 1 or not all(map(self._contains, value.tolist())):
                raise ValueError(
                    f"{self._name} must be a vector of numbers in {interval}; found {value}."
                )
        else:
            allowed = int if self.integer else int | float
            if isinstance(value, bool) or not isinstance(value, allowed):
                kind = "an integer" if self.integer else "a number"
                raise TypeError(f"{self._name} must be {kind}; found {value!r}.")
            if not self._contains(value):
                raise ValueError(f"{self._name} must be in {interval}; found {value!r}.")
        vars(method)[self._name] = value

    def _contains(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)


def of_weighting() -> Any:
    """Declares an option of an aggregator that forwards to its weighting's option.

    Returns:
        A descriptor, to be used as a class attribute: ``c: float = of_weighting()``.
    """
    return _OfWeighting()


class _OfWeighting:
    """The descriptor of `of_weighting`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, aggregator: GramianWeightedAggregator | None, owner: type) -> Any:
        return self if aggregator is None else getattr(aggregator.gramian_weighting, self._name)

    def __set__(self, aggregator: GramianWeightedAggregator, value: object) -> None:
        setattr(aggregator.gramian_weighting, self._name, value)


class ConstructorRepr:
    """A method whose ``repr`` is the call of its constructor, with all options."""

    def __repr__(self) -> str:
        options = inspect.signature(type(self)).parameters
        values = ", ".join(f"{name}={getattr(self, name)}" for name in options)
        return f"{type(self).__name__}({values})"
