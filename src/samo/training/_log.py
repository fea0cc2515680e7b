"""What a run writes while it goes on: JSON lines and TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from ._files import RunDirectory


class Log:
    """The log of a run. It goes on where a checkpoint left it: what came after is cut off.

    Args:
        directory: The run's directory.
        size: The size of ``log.jsonl`` in bytes at the checkpoint.
        epoch: The number of epochs that are complete.
    """

    def __init__(self, directory: RunDirectory, size: int, epoch: int) -> None:
        self._file = directory.log_file.open("ab")
        self._file.truncate(min(size, self._file.tell()))
        self._events = SummaryWriter(str(directory.tensorboard), purge_step=epoch + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()

    def epoch(self, record: Mapping[str, Any], timing: Mapping[str, float]) -> int:
        """Writes down an epoch.

        Args:
            record: What was measured.
            timing: What it took.

        Returns:
            The size of ``log.jsonl`` in bytes after it.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({**record, "timing": timing, "time": now})
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        for tag, value in _scalars({**record, "timing": timing}):
            self._events.add_scalar(tag, value, record["epoch"])
        return self._file.tell()


def _scalars(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a record, each with a tag such as ``validation/left/accuracy``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{path}{name}/")
        elif isinstance(value, int | float) and name != "epoch":
            yield path + name, value
