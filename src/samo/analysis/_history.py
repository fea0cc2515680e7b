"""Reads a log into columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import read_lines


@dataclass(frozen=True)
class History:
    """Quantities over training.

    Attributes:
        unit: The unit of `at`: ``"step"`` or ``"epoch"``.
        at: The steps or epochs.
        values: By name, such as ``"conflicts"`` or ``"weight/left"``, the means since the previous
            step or epoch in `at` (see `Monitor`); NaN for a missing value.
    """

    unit: str
    at: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]

    def by_task(self, name: str) -> dict[str, tuple[float, ...]]:
        """Returns a quantity, such as ``"weight"``, by task; empty if it is missing."""
        start = f"{name}/"
        return {
            tag.removeprefix(start): v for tag, v in self.values.items() if tag.startswith(start)
        }


def history(directory: Path | str) -> History:
    """Reads the log of a `Monitor`, or of a run of ``samo train``.

    Args:
        directory: The directory of the monitor or the run.

    Returns:
        The monitor's log by steps, if the directory has one, otherwise the run's log by epochs.

    Raises:
        ValueError: If there is no log, or a line of it is invalid.
    """
    directory = Path(directory)
    if (file := directory / "steps.jsonl").exists():
        return _columns("step", [record for record, _ in read_lines(file, "step")])
    if (file := directory / "log.jsonl").exists():
        records = [
            {"epoch": record["epoch"], **_mapping(file, record)}
            for record, _ in read_lines(file, "epoch")
        ]
        return _columns("epoch", records)
    raise ValueError(
        f"{directory} has no log: neither steps.jsonl (of a samo.analysis.Monitor) nor log.jsonl "
        f"(of a run)."
    )


def _mapping(file: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    steps = record.get("steps")
    if not isinstance(steps, Mapping):
        raise ValueError(f"epoch {record['epoch']} in {file} has no mapping 'steps'.")
    return steps


def _columns(unit: str, records: list[dict[str, Any]]) -> History:
    numbers = [{t: v for t, v in r.items() if isinstance(v, int | float)} for r in records]
    tags = dict.fromkeys(tag for record in numbers for tag in record if tag != unit)
    nan = float("nan")
    return History(
        unit,
        tuple(record[unit] for record in records),
        {tag: tuple(float(record.get(tag, nan)) for record in numbers) for tag in tags},
    )
