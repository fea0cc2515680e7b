"""Measurements during training, as JSON lines and TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ._files import open_to_append, sealed, unsealed, writing


class Log:
    """Writes numbered records as JSON lines, and their scalars to TensorBoard.

    Each line is flushed when it is written (TensorBoard's events within two minutes, or on
    `close`). An existing log is continued: an incomplete last line and the records after `last` are
    removed.

    Args:
        file: The file of JSON lines.
        events: The directory of TensorBoard's events.
        key: The key of a record's number, such as ``"epoch"``.
        last: The number of the last record to keep; None for all.

    Raises:
        RunError: If a file cannot be written.
        ValueError: If the file holds anything but records in increasing order.
        ImportError: If TensorBoard is missing.
    """

    def __init__(self, file: Path, events: Path, key: str, last: int | None = None) -> None:
        try:
            # Imported here, because it takes a second or more.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f'the log needs TensorBoard ({error}): pip install "torch-samo[train]".'
            ) from error
        self._key = key
        size, self.last = _end(file, key, last) if file.exists() else (0, last or 0)
        self._path = file
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_to_append(file)
            self._file.truncate(size)
            self._events = SummaryWriter(str(events), purge_step=self.last + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends a record: numbers or mappings of numbers by name, and its number by the key."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(sealed({**record, "time": now}))
        with writing(self._path):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            self.last = record[self._key]
            for tag, value in _scalars(record):
                if tag != self._key:
                    self._events.add_scalar(tag, value, self.last)

    def close(self) -> None:
        """Closes the files."""
        with writing(self._path):
            try:
                self._file.close()
            finally:
                self._events.close()


def read_lines(file: Path, key: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Reads the file of a `Log`, which another process may be writing.

    Yields:
        The complete records, each with the offset of its end in bytes.

    Raises:
        ValueError: If a line is not a record, or the numbers do not increase.
    """
    size, last = 0, 0
    with file.open("rb") as lines:
        for i, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # cut off by a crash, or not yet complete
            try:
                record = unsealed(json.loads(line))
                number = record[key]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(
                    f"line {i} of {file} is not a log record (a JSON object with {key!r}): "
                    f"{type(error).__name__}: {error}. Repair or move the file."
                ) from error
            if not isinstance(number, int) or number <= last:
                raise ValueError(
                    f"line {i} of {file} has {key} {number!r}; it should be an integer greater "
                    f"than {last}, the {key} of the previous line. Repair or move the file."
                )
            size, last = size + len(line), number
            yield record, size


def _end(file: Path, key: str, last: int | None) -> tuple[int, int]:
    """Returns the size in bytes of the records to keep, and the number of the last one."""
    size, number = 0, 0
    for record, end in read_lines(file, key):
        if last is not None and record[key] > last:
            break
        size, number = end, record[key]
    return size, number if last is None else last


def _scalars(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a record with tags such as ``validation/left/accuracy``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            yield path + name, value
