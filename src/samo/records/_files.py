"""Atomic writing of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._errors import RunError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path, then renames the file to `path`."""
    beside = path.with_name(f"{path.name}.new")
    write(beside)
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically; NaN and infinities raise a ValueError."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises RunError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
