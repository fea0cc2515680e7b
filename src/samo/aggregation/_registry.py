"""Looks up, creates and recognises the methods of the table."""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
from typing import Any

import torch
import torchjd.aggregation as agg
from torch import Tensor
from torchjd.aggregation import Aggregator, GramianWeightedAggregator, Weighting
from torchjd.scalarization import Scalarizer

from ._method import Method
from ._table import METHODS

_BY_NAME = {name: method for method in METHODS for name in (method.name, *method.aliases)}


def _types(method: Method) -> list[type[Any]]:
    """Returns the classes of a method: aggregator and weighting, of TorchJD and of this package."""
    base = method.kind.__name__.removesuffix("Weighting")
    places = (agg, sys.modules[method.kind.__module__])
    twins = [getattr(p, base + suffix, None) for p in places for suffix in ("", "Weighting")]
    return [method.kind, *(twin for twin in twins if twin is not None)]


_BY_TYPE = {kind: method for method in METHODS for kind in _types(method)}


def available() -> tuple[str, ...]:
    """Returns the names of all methods, without aliases."""
    return tuple(method.name for method in METHODS)


def describe(name: str) -> Method:
    """Returns the table entry of a method.

    Args:
        name: Its name or an alias, in any case, with ``-`` or ``_``.

    Returns:
        The entry.

    Raises:
        ValueError: If the method is unknown.

    Example:
        >>> from samo import aggregation
        >>> aggregation.describe("CAGrad").defaults
        {'c': 0.4}
    """
    normal = name.lower().replace("_", "-")
    if normal in _BY_NAME:
        return _BY_NAME[normal]
    nearest = difflib.get_close_matches(normal, _BY_NAME, n=1, cutoff=0.5)
    hint = f", did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"There is no method {name!r}{hint} The methods are {', '.join(available())}.")


def create(name: str, n_tasks: int, **options: Any) -> Aggregator | Scalarizer:
    """Creates a method from its name.

    Args:
        name: Its name or an alias, in any case, with ``-`` or ``_``.
        n_tasks: The number of tasks K.
        **options: Options of the method; `describe` returns the defaults. A list of numbers can
            replace a tensor.

    Returns:
        A ``Scalarizer`` for methods of the losses, a ``GramianWeightedAggregator`` for methods of
        the Gramian, and an ``Aggregator`` for methods of the gradients.

    Raises:
        ValueError: If the method is unknown or needs more tasks, or an option is out of range.
        TypeError: If an option is unknown, missing, or of the wrong type.
        ImportError: If the method needs a package that is not installed.

    Example:
        >>> from samo import aggregation
        >>> aggregation.create("constant", 2, weights=[0.3, 0.7])
        Constant(weights=tensor([0.3000, 0.7000]))
    """
    method = describe(name)
    try:
        return method.make(n_tasks, _arguments(method, n_tasks, {**method.published, **options}))
    except ImportError as error:
        raise ImportError(
            f"Method {method.name!r} needs packages that are not installed: "
            f'pip install "torch-samo[train]". ({error})'
        ) from error
    except (TypeError, ValueError) as error:
        raise type(error)(f"Method {method.name!r}: {error}") from error


def method_of(aggregator: Aggregator | Weighting[Any] | Scalarizer) -> Method | None:
    """Finds the table entry of an object.

    Args:
        aggregator: A TorchJD aggregator, weighting or scalarizer, created by `create` or not.

    Returns:
        The entry, with the references of methods that it contains (as CR-MOGM does), or None if the
        method is not in the table.
    """
    kinds = [kind for module in aggregator.modules() for kind in type(module).__mro__]
    found = [_BY_TYPE[kind] for kind in kinds if kind in _BY_TYPE]
    if not found:
        return None
    references = dict.fromkeys(key for method in found for key in method.references)
    return replace(found[0], references=tuple(references))


def _arguments(method: Method, n_tasks: int, options: dict[str, Any]) -> dict[str, Any]:
    """Checks options and converts them to arguments of the constructor."""
    takes = f"it takes {', '.join(method.options) or 'none'}"
    if unknown := [name for name in options if name not in method.options]:
        raise TypeError(f"unknown option {', '.join(map(repr, unknown))}; {takes}.")
    required = [name for name in method.options if name not in method.defaults]
    if missing := [name for name in required if name not in options]:
        raise TypeError(f"missing option {', '.join(map(repr, missing))}; {takes}.")
    if n_tasks < (fewest := method.tasks_for(options)):
        raise ValueError(f"it needs at least {fewest} tasks; found n_tasks={n_tasks}.")
    arguments = {name: _argument(name, value, n_tasks) for name, value in options.items()}
    if "base" in arguments:
        arguments["weighting"] = _weighting(arguments.pop("base"), n_tasks)
    if "weights" in method.published and arguments["weights"] is None:
        arguments["weights"] = torch.ones(n_tasks) / n_tasks
    return arguments


def _argument(name: str, value: Any, n_tasks: int) -> Any:
    """Converts a list to a tensor, and checks the length of a vector."""
    if isinstance(value, list | tuple):
        value = torch.tensor(value, dtype=torch.get_default_dtype())
    # PCD's tau has a value for each task except the first; other vectors have one for each task.
    length = n_tasks - (name == "tau")
    if isinstance(value, Tensor) and value.shape != (length,):
        raise ValueError(
            f"{name} must have {length} values for {n_tasks} tasks; found shape "
            f"{tuple(value.shape)}."
        )
    return value


def _weighting(base: str, n_tasks: int) -> Weighting[Any]:
    """Returns the weighting of the method that CR-MOGM smooths."""
    made = create(base, n_tasks)
    if isinstance(made, GramianWeightedAggregator):
        return made.gramian_weighting
    names = [method.name for method in METHODS if method.needs == "gramian"]
    raise ValueError(f"base must be a method of the Gramian, one of {names}; found {made!r}.")
