"""Untrusted files: read as data, limited in size and depth, and made printable.

Nothing here imports a module, looks up a name or unpickles: the benchmark of a run may be a
``"module:Class"`` whose code must not run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ._errors import RunError
from ._files import unsealed

_LONGEST = 400  # characters of a text
_LONGEST_NAME = 60
_DEEPEST = 16
_LARGEST = 32 * 2**20  # bytes of a file


class UnusableError(RunError):
    """A file cannot be used; the message is the reason."""


def plain(text: str, longest: int = _LONGEST) -> str:
    r"""Makes a text printable: escapes control characters and the like, and cuts long texts.

    Returns:
        One line without control characters, direction marks and lone surrogates.

    Example:
        >>> plain("a" + chr(27) + "[31m" + chr(0x202E) + "b")
        'a\\x1b[31m\\u202eb'
    """
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name(text: str) -> str:
    """Makes the name of a task, metric or method printable and short, for tables and figures."""
    # matplotlib parses text between dollar signs as mathematics, but not between full-width ones.
    return plain(text, _LONGEST_NAME).replace("$", "\uff04")


def read_text(path: Path, root: Path) -> str:
    """Reads a text file that must be inside `root`, a resolved directory.

    Returns:
        Its text; bytes that are not UTF-8 are replaced.

    Raises:
        UnusableError: If it is not a regular file inside `root`, is too large, or cannot be read.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise UnusableError("it is outside the directory")
        if not real.is_file():  # opening a pipe, for instance, would block
            raise UnusableError("it is not a regular file")
        if (size := real.stat().st_size) > _LARGEST:
            raise UnusableError(f"it has {size / 2**20:.0f} MB, more than {_LARGEST >> 20} MB")
        return real.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError) as error:  # RuntimeError: a cycle of links
        raise UnusableError(plain(str(error))) from error


def parse(text: str) -> Any:
    """Parses JSON and verifies its checksum.

    Returns:
        The value, with `name` applied to keys and `plain` to other texts.

    Raises:
        UnusableError: If it is not JSON, is damaged, or is nested too deep.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"it is not JSON: {plain(str(error), 120)}") from error
    try:
        return _printable(unsealed(value))
    except (ValueError, RecursionError) as error:
        raise UnusableError(str(error)) from error


def _printable(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise UnusableError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {name(plain(key)): _printable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item, depth + 1) for item in value]
    return value
