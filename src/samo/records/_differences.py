"""Comparison of settings on disk with the requested ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Lists the fields in which two configurations differ.

    Only the last component of the path to the data (``benchmark_options["data"]``) is compared: the
    directory may have been moved.

    Args:
        there: The saved fields.
        here: The requested fields.

    Returns:
        The differing fields with both values; ``""`` if there are none.

    Example:
        >>> differences({"rho": 0.05, "seed": 1}, {"rho": 0.1, "seed": 1})
        'rho (0.05 saved, 0.1 requested)'
    """
    there, here = _without_place(there), _without_place(here)
    names = dict.fromkeys([*here, *there])
    return ", ".join(
        f"{name} ({there.get(name)!r} saved, {here.get(name)!r} requested)"
        for name in names
        if there.get(name) != here.get(name)
    )


def _without_place(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reduces the path to the data to its last component."""
    options = dict(config.get("benchmark_options") or {})
    if isinstance(options.get("data"), str):
        options["data"] = Path(options["data"]).absolute().name
    return {**config, "benchmark_options": options} if options else dict(config)
