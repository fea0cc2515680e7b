"""Checks of the arguments of benchmarks and networks."""

from __future__ import annotations


def check_at_least(least: int, /, **values: float | None) -> None:
    """Raises an error if an argument is below its minimum.

    Args:
        least: The minimum.
        **values: The values by the name of the argument; None stands for an argument left out.

    Raises:
        ValueError: If a value is below the minimum.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}; found {value}.")
