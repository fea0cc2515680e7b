"""Checks that several methods make."""

from __future__ import annotations

import math

from torch import Tensor


def check_positive(method: object, losses: Tensor) -> None:
    """Refuses losses of which no logarithm or quotient can be taken.

    Args:
        method: The method, for the message.
        losses: The losses.

    Raises:
        ValueError: If one is zero or negative.
    """
    if not (losses > 0).all():
        raise ValueError(
            f"{type(method).__name__} needs positive losses; found {losses.detach().tolist()}."
        )


def check_shape(method: object, losses: Tensor, n_tasks: int) -> None:
    """Refuses losses of another number of tasks.

    Args:
        method: The method, for the message.
        losses: The losses.
        n_tasks: The number of tasks that the method was made for.

    Raises:
        ValueError: If there are more or fewer.
    """
    if losses.shape != (n_tasks,):
        raise ValueError(
            f"{type(method).__name__} was made for {n_tasks} tasks; found losses of shape "
            f"{tuple(losses.shape)}."
        )


def in_range(
    name: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Checks a hyper-parameter.

    Args:
        name: Its name, for the message.
        value: Its value.
        low: The lower end of the values allowed.
        high: The upper end.
        open_low: Whether the lower end itself is not allowed.
        open_high: Whether the upper end itself is not allowed.

    Returns:
        The value.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is outside.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; found {value!r}.")
    above = value > low if open_low else value >= low
    below = value < high if open_high or math.isinf(high) else value <= high
    if not (above and below):
        left = "(" if open_low else "["
        right = ")" if open_high or math.isinf(high) else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}; found {value!r}.")
    return value


def ranged(
    name: str,
    low: float,
    high: float = math.inf,
    *,
    open_high: bool = False,
) -> property:
    """A property for a hyper-parameter, which is checked whenever it is set.

    Args:
        name: Its name.
        low: The lower end of the values allowed.
        high: The upper end.
        open_high: Whether the upper end itself is not allowed.

    Returns:
        The property.
    """

    def get(self: object) -> float:
        value: float = getattr(self, f"_{name}")
        return value

    def set_(self: object, value: float) -> None:
        setattr(self, f"_{name}", in_range(name, value, low, high, open_high=open_high))

    return property(get, set_)
