"""What is measured while something trains: JSON lines and TensorBoard events."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from samo.engine._result import StepResult


class Log:
    """Numbered records in a file of JSON lines, their numbers in TensorBoard as well.

    A line is in the file as soon as it is written (TensorBoard's events follow within two
    minutes, or when the log is closed). A log that is there already goes on: a last line that a
    crash has torn is cut off, and so is what came after the record to go on from.

    Args:
        file: The JSON lines.
        events: The directory of TensorBoard's events.
        key: Under what name the records have their numbers, such as ``"epoch"``.
        last: The number of the last record to keep; None for all.

    Raises:
        ValueError: If the file holds anything else than such records in order.
        ImportError: If TensorBoard is missing.
    """

    def __init__(self, file: Path, events: Path, key: str, last: int | None = None) -> None:
        try:
            # It takes a second or more to load.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f'the log needs TensorBoard ({error}): pip install "torch-samo[train]".'
            ) from error
        self._key = key
        size, self.last = _end(file, key, last) if file.exists() else (0, last or 0)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("ab")
        self._file.truncate(size)
        self._events = SummaryWriter(str(events), purge_step=self.last + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a record.

        Args:
            record: Numbers, or mappings of numbers, by name; its own number is among them.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(json.dumps({**record, "time": now}).encode() + b"\n")
        self._file.flush()
        self.last = record[self._key]
        for tag, value in _scalars(record):
            if tag != self._key:
                self._events.add_scalar(tag, value, self.last)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()


def read_lines(file: Path, key: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Reads a log, which may be written to at the same time.

    Args:
        file: The JSON lines.
        key: Under what name the records have their numbers.

    Yields:
        The whole records, each with the number of bytes up to its end.

    Raises:
        ValueError: If a line is no such record, or they are not in order.
    """
    size, last = 0, 0
    with file.open("rb") as lines:
        for i, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # torn by a crash, or not whole yet
            try:
                record = json.loads(line)
                number = record[key]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"line {i} of {file} is no record of a log (a JSON object with {key!r}): "
                    f"{type(error).__name__}: {error}. Mend or move the file."
                ) from error
            if not isinstance(number, int) or number <= last:
                raise ValueError(
                    f"line {i} of {file} has {key} {number!r}; it should be a whole number above "
                    f"{last}, that of the line before. Mend or move the file."
                )
            size, last = size + len(line), number
            yield record, size


def _end(file: Path, key: str, last: int | None) -> tuple[int, int]:
    """Where to go on: the size in bytes of what is to be kept, and the last record's number."""
    size, number = 0, 0
    for record, end in read_lines(file, key):
        if last is not None and record[key] > last:
            break
        size, number = end, record[key]
    return size, number if last is None else last


def _scalars(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in a record, each with a tag such as ``validation/left/accuracy``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            yield path + name, value


class Means:
    """The means over some steps of what their results tell, for each task its own.

    Nothing is computed on the model's device, and nothing waits for it, before `take`.
    """

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._weights: list[tuple[tuple[str, ...], Tensor]] = []
        self._sharpness: defaultdict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def add(self, result: StepResult) -> None:
        """Takes notice of a step.

        Args:
            result: What the step saw; an absent task counts for nothing.
        """
        tasks = tuple(result.losses)
        for task, loss in result.losses.items():
            self._seen[f"loss/{task}"].append(loss)
        for task, loss in (result.perturbed_losses or {}).items():
            self._sharpness[task].append((loss, result.losses[task]))
        if result.weights is not None:
            self._weights.append((tasks, result.weights.detach()))
        if result.gramian is not None:  # it is on the CPU
            norms = result.gramian.diagonal().clamp_min(0).sqrt()
            for task, norm in zip(tasks, norms, strict=True):
                self._seen[f"gradient_norm/{task}"].append(norm)
        if result.conflicts is not None:
            self._seen["conflicts"].append(torch.tensor(result.conflicts))

    def take(self) -> dict[str, float]:
        """Computes the means, and begins anew.

        Returns:
            ``loss/TASK``, ``sharpness/TASK`` (perturbed minus natural loss), ``weight/TASK`` (and
            ``weight_flat/TASK`` where the aggregation is decomposed), ``gradient_norm/TASK`` (of
            the aggregated task gradients: the roots of the Gramian's diagonal) and ``conflicts``
            (the share of conflicting task pairs); what no step knew is left out.
        """
        seen = dict(self._seen)
        for tasks, weights in self._weights:
            for name, row in zip(
                ("weight", "weight_flat"), torch.atleast_2d(weights), strict=False
            ):
                for task, weight in zip(tasks, row, strict=True):
                    seen.setdefault(f"{name}/{task}", []).append(weight)
        means = {tag: _wide(values).mean().item() for tag, values in seen.items()}
        for task, pairs in self._sharpness.items():
            perturbed, natural = zip(*pairs, strict=True)
            means[f"sharpness/{task}"] = (_wide(perturbed) - _wide(natural)).mean().item()
        self._seen.clear()
        self._weights.clear()
        self._sharpness.clear()
        return means


def _wide(values: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(tuple(values)).cpu().double()
