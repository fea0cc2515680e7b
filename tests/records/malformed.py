"""JSON values that a file of another kind, or of another person, may hold anywhere."""

from __future__ import annotations

from typing import Any

WRONG: list[Any] = [
    None,
    True,
    -1,
    1e300,
    float("nan"),
    float("inf"),
    10**400,
    "text",
    "\ud800$\x1b",
    [],
    {},
    [[]],
    {"left": {"accuracy": "90"}},
    {"": {"": 0.0}},
]
