"""Parses the values of options."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import benchmarks
from ..training import RunError


def names(text: str) -> list[str]:
    """Splits a list such as ``ls,mgda``."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(option: str, text: str | None) -> list[float]:
    """Splits the value of an option such as ``0.05,0.1``; returns an empty list for None."""
    values = []
    for part in names(text or ""):
        try:
            values.append(float(part))
        except ValueError as error:
            raise RunError(
                f"{option} must be numbers with commas between them; found {part!r}."
            ) from error
    return values


def assignments(option: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Parses the values of an option such as ``alpha=2``.

    Args:
        option: The option, for error messages.
        pairs: Names and values; values are JSON, or else text.

    Returns:
        The values by name.

    Raises:
        RunError: If a pair has no ``=``, or a name occurs twice.

    Example:
        >>> assignments("--method-option", ["alpha=2", "noise=rademacher", "weights=[1, 3]"])
        {'alpha': 2, 'noise': 'rademacher', 'weights': [1, 3]}
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise RunError(f"{option} must be NAME=VALUE, for instance alpha=2; found {pair!r}.")
        if name in values:
            raise RunError(f"{option} names {name!r} twice.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return values


def ranges(named: Mapping[str, str | None], pairs: Iterable[str]) -> dict[str, str]:
    """Collects the ranges of a sweep.

    Args:
        named: The ranges of settings that have an option of their own, by name.
        pairs: The values of ``--set``.

    Returns:
        The ranges as text, by name.

    Raises:
        RunError: If a pair has no ``=``, or a setting is named twice.

    Example:
        >>> ranges({"rho": "0.01..1", "lr": None}, ["clip=1,2"])
        {'rho': '0.01..1', 'clip': '1,2'}
    """
    found = {name: text for name, text in named.items() if text is not None}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise RunError(f"--set must be NAME=RANGE, for instance clip=1..5; found {pair!r}.")
        if name.strip() in found:
            raise RunError(f"{name.strip()} has two ranges: give one.")
        found[name.strip()] = text
    return found


def benchmark_options(benchmark: str, pairs: Iterable[str], data: Path | None) -> dict[str, Any]:
    """Parses ``--benchmark-option`` and ``--data`` (a relative path stays relative)."""
    options = assignments("--benchmark-option", pairs)
    if data is None:
        return options
    try:
        parameters = inspect.signature(benchmarks.get(benchmark)).parameters
    except ValueError as error:
        raise RunError(str(error)) from error
    if "data" not in parameters:
        raise RunError(f"benchmark {benchmark!r} reads no files: --data does not apply.")
    if "data" in options:
        raise RunError("--data and --benchmark-option data= set the same option: give one of them.")
    return {**options, "data": str(data)}
