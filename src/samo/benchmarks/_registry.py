"""Benchmarks by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from ._benchmark import Benchmark
from ._names import unknown
from .dense import Cityscapes, NYUv2
from .digits import Digits, DigitsDomains
from .scenes import Scenes

_BENCHMARKS: dict[str, type[Benchmark]] = {
    "digits": Digits,
    "digits-domains": DigitsDomains,
    "scenes": Scenes,
    "cityscapes": Cityscapes,
    "nyuv2": NYUv2,
}


def available() -> list[str]:
    """Names the benchmarks that come with the package.

    Returns:
        Their names, for `create`.

    Example:
        >>> available()[:2]
        ['digits', 'digits-domains']
    """
    return list(_BENCHMARKS)


def get(name: str) -> type[Benchmark]:
    """Finds a benchmark's class without making its data.

    Args:
        name: One of `available`, or the address ``"module:Class"`` of your own.

    Returns:
        The class.

    Raises:
        ValueError: If there is none of this name, or the address leads to something else.

    Example:
        >>> get("samo.benchmarks:Digits") is get("digits")
        True
    """
    if name in _BENCHMARKS:
        return _BENCHMARKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(unknown("benchmark", name, available()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"benchmark {name!r} cannot be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Benchmark)):
        raise ValueError(f"benchmark {name!r} must be a class derived from {Benchmark.__name__}.")
    return found


def create(name: str, **options: Any) -> Benchmark:
    """Makes a benchmark with its data.

    Args:
        name: One of `available`, or the address ``"module:Class"`` of your own.
        **options: The arguments of its class.

    Returns:
        The benchmark.

    Raises:
        ValueError: If the name or an option is unknown, an option that has no default is left out,
            or an option's value is bad.

    Example:
        >>> create("digits", pairs=100).tasks
        ('left', 'right')
    """
    kind = get(name)
    allowed = inspect.signature(kind).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in allowed.values()):
        for option in options:
            if option not in allowed:
                raise ValueError(unknown(f"option of benchmark {name!r},", option, allowed))
    for option, p in allowed.items():
        named = p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}
        if named and p.default is p.empty and option not in options:
            hint = ": where its files lie (--data PATH)" if option == "data" else ""
            raise ValueError(f"benchmark {name!r} needs the option {option!r}{hint}.")
    return kind(**options)
