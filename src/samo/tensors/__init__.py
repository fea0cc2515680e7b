"""Lists of tensors as one vector, and their storage."""

from ._dtensor import assembled, in_parts, local, part_of
from ._vector import (
    GlobalSum,
    Layout,
    Matrix,
    Vector,
    cut,
    ratio,
    shards,
    wide,
    widest,
)
from ._workspace import Workspace

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
