"""Parses the options that name columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._table import TableFile


def chosen_columns(table: TableFile, option: str, value: Any) -> list[str]:
    """Returns the columns that an option names: in a list, or in a string with commas between them.

    Raises:
        ValueError: If the value has another type, or a column does not exist or occurs twice.
    """
    if isinstance(value, str):
        value = [value] if value in table.names else [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{option} must be names of columns; found {value!r}.")
    names = [table.check(option, name) for name in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{option} names column {name!r} twice.")
    return names


def input_columns(
    table: TableFile, tasks: Sequence[str], inputs: Any, ignore: Any, split_column: Any
) -> list[str]:
    """Returns the input columns; if `inputs` is None, these are all columns without another role.

    Raises:
        ValueError: If an option is invalid, or a column has two roles.
    """
    others = dict.fromkeys(tasks, "tasks")
    if split_column is not None:
        if split_column in others:
            raise ValueError(f"column {split_column!r} is in tasks and in split_column.")
        others[table.check("split_column", split_column)] = "split_column"
    for name in chosen_columns(table, "ignore", ignore):
        if name in others:
            raise ValueError(f"column {name!r} is in {others[name]} and in ignore.")
        others[name] = "ignore"
    if inputs is None:
        return [name for name in table.names if name not in others]
    names = chosen_columns(table, "inputs", inputs)
    for name in names:
        if name in others:
            raise ValueError(f"column {name!r} is in {others[name]} and in inputs.")
    return names


def declared_types(table: TableFile, value: Any, used: Iterable[str]) -> dict[str, str]:
    """Returns the types that the option ``types`` declares, by column.

    Raises:
        ValueError: If it is not a mapping, or a column does not exist or is not used.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f'types must map columns to types, {{"column": "type"}}; found {value!r}.')
    used = set(used)
    for name in value:
        if table.check("types", name) not in used:
            raise ValueError(f"types has column {name!r}, which is neither a task nor an input.")
    return dict(value)


def markers(value: Any) -> list[str | float]:
    """Returns the markers in the option ``missing``: a string, a number, or a list of them.

    Raises:
        ValueError: If the value has another type.

    Example:
        >>> markers("?"), markers([-1, "none"])
        (['?'], [-1, 'none'])
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    for item in values:
        if not isinstance(item, str | int | float) or isinstance(item, bool):
            raise ValueError(f"missing must be strings or numbers; found {item!r}.")
    return values
