"""Writing files so that they are there whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and renames it into it: it is there whole, or not at all.

    Args:
        path: The file's place.
        write: Writes the file that it is given.
    """
    beside = path.with_name(f"{path.name}.new")
    write(beside)
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically.

    Args:
        path: The file's place.
        content: What to write.
    """
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))
