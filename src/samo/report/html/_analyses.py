"""What `samo analyze` has left beside the runs."""

from __future__ import annotations

from ._blocks import Block
from ._groups import Group


def analyses(group: Group, prefix: str) -> list[Block]:
    return []
