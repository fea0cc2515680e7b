"""What somebody else's files may hold, and what is taken from them: data, checked and made plain.

Nothing here looks a name up, imports a module or unpickles: a run's benchmark may be the address
``"module:Class"`` of code that is not to be run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

M = TypeVar("M", bound=BaseModel)

LONGEST = 400
"""How many characters of a text are shown."""
_LONGEST_NAME = 60
_DEEPEST = 16
_LARGEST = 32 * 2**20  # bytes of a file


class UnusableError(ValueError):
    """A file that cannot be used, and why."""


def plain(text: str, longest: int = LONGEST) -> str:
    r"""Makes a text printable: control characters and the like are written out, long ones cut.

    Args:
        text: Any text.
        longest: How many characters to keep.

    Returns:
        One line without control characters, marks of direction and lone surrogates.

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
    """Makes the name of a task, metric, method .. fit for tables and figures.

    Args:
        text: Any text.

    Returns:
        The text, printable and short. Dollar signs, which matplotlib takes for mathematics, are the
        wide ones.
    """
    return plain(text, _LONGEST_NAME).replace("$", "\uff04")


def tidy(value: Any, depth: int = 0) -> Any:
    """Makes every text within a JSON value printable.

    Args:
        value: What `json.loads` gave.
        depth: How deep it lies.

    Returns:
        The same, with `plain` texts and keys.

    Raises:
        UnusableError: If it is nested too deeply.
    """
    if depth > _DEEPEST:
        raise UnusableError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {name(key): tidy(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item, depth + 1) for item in value]
    return value


def read_text(path: Path, root: Path) -> str:
    """Reads a text file that lies in the directory that the report is of, and nowhere else.

    Args:
        path: The file.
        root: The directory, resolved.

    Returns:
        Its text; bytes that are not UTF-8 are replaced.

    Raises:
        UnusableError: If it is no plain file, leads elsewhere, is too large, or cannot be read.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise UnusableError("it leads out of the directory")
        if not real.is_file():  # a pipe, for instance, would be waited for
            raise UnusableError("it is not a plain file")
        if (size := real.stat().st_size) > _LARGEST:
            raise UnusableError(f"it has {size / 2**20:.0f} MB, more than {_LARGEST >> 20} MB")
        return real.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        raise UnusableError(plain(str(error))) from error


def parse(text: str) -> Any:
    """Reads JSON.

    Args:
        text: The text.

    Returns:
        What it says, `tidy`.

    Raises:
        UnusableError: If it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"it is not JSON: {plain(str(error), 120)}") from error
    return tidy(value)


def validated(kind: type[M], value: Any) -> M:
    """Checks a JSON value.

    Args:
        kind: What it should be.
        value: The value.

    Returns:
        The model.

    Raises:
        UnusableError: If it is something else, with the first fault.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UnusableError(plain(f"{where}: {what}" if where else what)) from error


# Beyond 1e100 squares and sums need not be finite; nothing that was measured is there.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e100, le=1e100)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**63)]
Name = Annotated[StrictStr, AfterValidator(name)]
Scores = dict[Name, dict[Name, Number]]


class Config(BaseModel):
    """The fields of a run's configuration that the report goes by; the others are only shown."""

    model_config = ConfigDict(extra="allow")

    benchmark: Name
    method: Name
    sharpness: Name
    rho: Number | None = None
    seed: Count = 0
    tasks: list[Name] | None = None
    epochs: Count | None = None
    average_last: Count = 0


class Planned(BaseModel):
    """A run in ``compare.json``."""

    path: StrictStr
    baseline: StrictBool
    config: Config


class Epoch(BaseModel):
    """What was measured in an epoch: a line of ``log.jsonl``, an item of ``history``."""

    epoch: Count
    score: Number
    train: Scores
    validation: Scores
    steps: dict[Name, Number] = {}
    timing: dict[Name, Number | None] = {}
    time: StrictStr = ""


class About(BaseModel):
    """What is known of a metric."""

    higher_is_better: StrictBool
    unit: Name


class Reported(BaseModel):
    """The scores of an epoch, or the means over some."""

    epoch: Count | None = None
    epochs: list[Count] | None = None
    score: Number
    validation: Scores
    test: Scores


class Timing(BaseModel):
    """What a run took; older ones have no memory."""

    step_ms: Number
    epoch_s: Number | None = None
    total_s: Number | None = None
    peak_memory_mb: Number | None = None


class Results(BaseModel):
    """What ``results.json`` holds."""

    config: Config
    tasks: list[Name] = Field(min_length=1)
    metrics: dict[Name, dict[Name, About]]
    selected: Reported
    averaged: Reported | None = None
    history: list[Epoch] = Field(min_length=1)
    timing: Timing
    environment: dict[Name, StrictStr | int | float | None] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for task in self.tasks:
            if not self.metrics.get(task):
                raise ValueError(f"task {task!r} has no metrics")
        self.metrics = {task: self.metrics[task] for task in self.tasks}
        places: list[tuple[str, Scores]] = []
        for where, scores in (("selected", self.selected), ("averaged", self.averaged)):
            if scores is not None:
                places += [(where, scores.validation), (where, scores.test)]
        for record in self.history:
            places += [(f"epoch {record.epoch}", s) for s in (record.train, record.validation)]
        for where, values in places:
            for task, metrics in self.metrics.items():
                for metric in metrics:
                    if metric not in values.get(task, {}):
                        raise ValueError(f"{where}: {metric!r} of task {task!r} is missing")
        return self
