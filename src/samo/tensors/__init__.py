"""Lists of tensors as one vector, and their storage."""

from ._dtensor import assembled, in_parts, local, part_of
from ._vector import (
    GlobalSum,
    Layout,
    Matrix,
    Vector,
    Workspace,
    cut,
    ratio,
    shards,
    wide,
    widest,
)

__all__ = [
    "GlobalSum",
    "Layout",
    "Matrix",
    "Vector",
    "Workspace",
    "assembled",
    "cut",
    "in_parts",
    "local",
    "part_of",
    "ratio",
    "shards",
    "wide",
    "widest",
]
