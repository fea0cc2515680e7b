"""Writing of whole files, atomically, and JSON with a checksum."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ._errors import RunError

_CHECKSUM = "checksum"
# Links are not followed: in a directory of others, one may lead to a file that must stay.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of the file system, such as a full disk, into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path} cannot be written: {reason}.") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replaces a file by a complete new one, or leaves it as it is.

    The new file is written beside it, flushed to the disk, and renamed.

    Args:
        path: The file.
        write: Writes the content to an open file.

    Raises:
        RunError: If it cannot be written.
    """
    beside = path.with_name(f".{secrets.token_hex(8)}.new")
    with writing(path):
        descriptor = os.open(beside, _NEW | _NO_LINK, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(descriptor)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8; raises RunError if it cannot be written."""
    write_atomically(path, lambda file: file.write(text.encode()))


def open_to_append(path: Path) -> BinaryIO:
    """Opens a file to append to it, unless it is a link."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | _NO_LINK, 0o666))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object with a checksum atomically; NaN and infinities raise a ValueError."""
    write_text(path, json.dumps(sealed(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises RunError if it cannot be read, or its checksum is another."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the field ``checksum``, a CRC-32 of the content."""
    return {**content, _CHECKSUM: _crc(content)}


def unsealed(content: Any) -> Any:
    """Verifies and removes the checksum of a JSON object.

    Returns:
        The content; other values, and objects without a checksum, as they are.

    Raises:
        ValueError: If the content was changed.
    """
    if not isinstance(content, dict) or _CHECKSUM not in content:
        return content
    rest = {name: value for name, value in content.items() if name != _CHECKSUM}
    if content[_CHECKSUM] != _crc(rest):
        raise ValueError(
            f"its content does not match its checksum, so it is damaged or was edited. Restore it, "
            f"or remove the field {_CHECKSUM!r} if it was edited on purpose."
        )
    return rest


def _crc(content: Mapping[str, Any]) -> str:
    # A number is written with the digits that identify it, so reading it back changes nothing.
    return f"{zlib.crc32(json.dumps(content).encode()):08x}"
