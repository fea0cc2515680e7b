"""Benchmarks by name."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from .._names import unknown
from ._benchmark import Benchmark
from .celeba import CelebA
from .dense import Cityscapes, NYUv2
from .digits import Digits, DigitsDomains
from .multimnist import MultiFashion, MultiFashionMNIST, MultiMNIST
from .office_home import OfficeHome
from .qm9 import QM9
from .scenes import Scenes
from .tabular import Tabular

_BENCHMARKS: dict[str, type[Benchmark]] = {
    "digits": Digits,
    "digits-domains": DigitsDomains,
    "tabular": Tabular,
    "scenes": Scenes,
    "multimnist": MultiMNIST,
    "multifashion": MultiFashion,
    "multifashion-mnist": MultiFashionMNIST,
    "cityscapes": Cityscapes,
    "nyuv2": NYUv2,
    "celeba": CelebA,
    "qm9": QM9,
    "office-home": OfficeHome,
}


def available() -> list[str]:
    """Returns the names of the benchmarks in this package.

    Example:
        >>> available()[:2]
        ['digits', 'digits-domains']
    """
    return list(_BENCHMARKS)


def get(name: str) -> type[Benchmark]:
    """Returns a benchmark's class, without loading any data.

    Args:
        name: One of `available`, or ``"module:Class"`` for your own class.

    Returns:
        The class.

    Raises:
        ValueError: If the name is unknown, it does not refer to a benchmark, or your class lacks
            methods.

    Example:
        >>> get("samo.benchmarks:Digits") is get("digits")
        True
    """
    if name in _BENCHMARKS:
        return _BENCHMARKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{unknown('benchmark', name, available())} Or your own, module:Class.")
    if module.endswith(".py") or "/" in module:
        hint = f"'{Path(module).stem}:{attribute}' in the directory of {module}"
        raise ValueError(f"benchmark {name!r} must be named by its module: {hint}.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        where = "Modules are imported from the current directory or the installed packages."
        raise ValueError(f"benchmark {name!r} cannot be imported: {error}. {where}") from error
    if not (inspect.isclass(found) and issubclass(found, Benchmark)):
        raise ValueError(f"benchmark {name!r} must be a class derived from {Benchmark.__name__}.")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ValueError(f"benchmark {name!r} lacks methods of {Benchmark.__name__}: {missing}.")
    return found


def create(name: str, **options: Any) -> Benchmark:
    """Creates a benchmark with its data.

    Args:
        name: One of `available`, or ``"module:Class"`` for your own class.
        **options: The arguments of its class.

    Returns:
        The benchmark.

    Raises:
        ValueError: If the name or an option is unknown, a required option is missing, a value is
            invalid, or your class has no tasks or a task has no metrics.

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
            hint = "--data PATH" if option == "data" else f"--benchmark-option {option}=.."
            raise ValueError(f"benchmark {name!r} needs the option {option!r} ({hint}).")
    made = kind(**options)
    if not getattr(made, "tasks", ()):
        raise ValueError(f"benchmark {name!r} has no tasks: set the attribute `tasks`.")
    without = [task for task in made.tasks if not getattr(made, "metrics", {}).get(task)]
    if without:
        raise ValueError(f"benchmark {name!r} has no metric for task {without[0]!r} in `metrics`.")
    return made
