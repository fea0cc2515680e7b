"""Options of presets and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._names import unknown


def completed(
    kind: str, name: str, table: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds the defaults of ``table[name].options``; raises ValueError if a name is unknown."""
    if name not in table:
        raise ValueError(unknown(kind, name, table))
    allowed = table[name].options
    for option in given:
        if option not in allowed:
            raise ValueError(unknown(f"option of {kind} {name!r},", option, allowed))
    return {**allowed, **given}
