"""Schema of the files of runs and comparisons, for writing and validation.

=================  =============================================================================
``config.json``    `Config`; all fields are those of `samo.training.RunConfig`
``log.jsonl``      an `Epoch` per line, with its timing and the time of writing
``results.json``   `Results`
``compare.json``   ``runs``, a list of `Planned`, and ``contrasts``, a list of texts
=================  =============================================================================

Each object, and each line of the log, also has a ``checksum``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ._errors import RunError
from .foreign import UnusableError, name, plain

M = TypeVar("M", bound="Model")

_FOREIGN = "foreign"


# Keys of untrusted files are shortened when they are parsed.
def _shortened(text: str, info: ValidationInfo) -> str:
    return name(text) if info.context == _FOREIGN else text


# Beyond 1e100, squares and sums may overflow; no measurement is that large.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e100, le=1e100)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**64)]
Name = Annotated[StrictStr, AfterValidator(_shortened)]
Scores = dict[str, dict[str, Number]]


class Model(BaseModel):
    """Part of a file."""

    def plain(self) -> dict[str, Any]:
        """Returns the fields that were set, as JSON values."""
        return self.model_dump(exclude_unset=True)


class Config(Model):
    """Configuration of a run: the fields that reports depend on; others are not validated."""

    model_config = ConfigDict(extra="allow")

    benchmark: Name
    tasks: list[Name] | None = None
    method: Name
    sharpness: Name
    rho: Number | None = None
    level: Name = "parameter"
    epochs: Count | None = None
    average_last: Count = 0
    ema: Number = 0.0
    seed: Count = 0


class Planned(Model):
    """A run of a comparison: its directory, relative to the comparison's, and configuration.

    `weights` are those that it is reported for; all that it scores if None.
    """

    path: StrictStr
    baseline: StrictBool
    config: Config
    weights: list[Literal["raw", "ema"]] | None = None


class Evaluated(Model):
    """Scores after an epoch; on test data in the last epochs of a run that reports their mean."""

    score: Number
    train: Scores
    validation: Scores
    test: Scores | None = None


class Epoch(Evaluated):
    """Measurements of an epoch; `timing` and `time` are in the log only.

    The scores are those of the raw weights; `ema` has those of the averaged weights.
    """

    epoch: Count
    lr: Number | None = None
    steps: dict[str, Number] = {}
    ema: Evaluated | None = None
    timing: dict[str, Number | None] = {}
    time: StrictStr = ""


class About(Model):
    """Properties of a metric."""

    higher_is_better: StrictBool
    unit: Name


class Reported(Model):
    """Scores after an epoch, or their means over several epochs."""

    epoch: Count | None = None
    epochs: list[Count] | None = None
    score: Number
    validation: Scores
    test: Scores


class Timing(Model):
    """Time and peak memory of a run; the memory is None if the system does not report it.

    `ema_ms` is the time to update the averaged weights after a step.
    """

    step_ms: Number
    ema_ms: Number | None = None
    epoch_s: Number | None = None
    total_s: Number | None = None
    peak_memory_mb: Number | None = None


class Scored(Model):
    """Scores of weights.

    `last` is after the last epoch, `selected` after the epoch that is best on validation data,
    `averaged` the mean over the last epochs of a run that reports it.
    """

    last: Reported | None = None
    selected: Reported
    averaged: Reported | None = None


class Results(Scored):
    """Results of a finished run: scores of the raw weights, and in `ema` of the averaged ones."""

    config: Config
    tasks: list[Name] = Field(min_length=1)
    metrics: dict[str, dict[str, About]]
    ema: Scored | None = None
    history: list[Epoch] = Field(min_length=1)
    timing: Timing
    environment: dict[str, StrictStr | int | float | None] = {}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Checks that all scores are there, and that they include every task and metric."""
        averaged = [self.ema, *(record.ema for record in self.history)]
        if any((scores is not None) != (self.config.ema > 0) for scores in averaged):
            raise ValueError(
                f"with ema = {self.config.ema:g}, the results and all epochs must have scores of "
                f"averaged weights (ema) if that is above 0, and none otherwise"
            )
        for task in self.tasks:
            if not self.metrics.get(task):
                raise ValueError(f"task {task!r} has no metrics")
        self.metrics = {task: self.metrics[task] for task in self.tasks}
        for where, scores in self._scores():
            for task, metrics in self.metrics.items():
                for metric in metrics:
                    if metric not in scores.get(task, {}):
                        raise ValueError(f"{where}: {metric!r} of task {task!r} is missing")
        return self

    def _scores(self) -> Iterator[tuple[str, Scores]]:
        for start, scored in (("", self), ("ema.", self.ema)):
            for where in ("selected", "averaged"):
                if (scores := getattr(scored, where, None)) is not None:
                    yield start + where, scores.validation
                    yield start + where, scores.test
        for record in self.history:
            for scores in (record, record.ema):
                if scores is not None:
                    yield f"epoch {record.epoch}", scores.train
                    yield f"epoch {record.epoch}", scores.validation


def validated(kind: type[M], value: Any, *, foreign: bool = False) -> M:
    """Checks a JSON value against a model; makes names printable and short if it is `foreign`.

    Returns:
        An instance of the model.

    Raises:
        UnusableError: If it does not fit; the message is the first error.
    """
    try:
        return kind.model_validate(value, context=_FOREIGN if foreign else None)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise UnusableError(plain(f"{where}: {what}" if where else what)) from error


def reported(results: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the scores by which a run is reported and compared.

    Args:
        results: Content of ``results.json``.

    Returns:
        ``score``, ``validation`` and ``test``: the means over the last epochs for a run with
        ``average_last`` > 0, otherwise the scores of the epoch that is best on validation data.
    """
    found: dict[str, Any] = results.get("averaged") or results["selected"]
    return found


def weights_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the weights that a run scores: ``"raw"``, and ``"ema"`` for those averaged."""
    return ("raw", "ema") if config["ema"] else ("raw",)


def of_weights(results: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Returns the results of a run with the scores of one kind of weights in all places.

    Args:
        results: Content of ``results.json``.
        weights: One of `weights_of`.

    Returns:
        The results as those of a run that scores only these weights. The time of a step includes
        the update of averaged weights.
    """
    if weights == "raw":
        return {**results}
    timing = results["timing"]
    return {
        **results,
        **results[weights],
        "history": [{**record, **record[weights]} for record in results["history"]],
        "timing": {**timing, "step_ms": timing["step_ms"] + (timing.get("ema_ms") or 0.0)},
    }


def preset_at(sharpness: str, level: str, weights: str = "raw") -> str:
    """Names a preset at a level, as in labels and paths; the defaults add nothing.

    Returns:
        The preset, with the level behind ``@`` unless it is ``"parameter"``, and the weights behind
        ``+`` unless they are the raw ones.

    Example:
        >>> preset_at("gsam", "parameter"), preset_at("gsam", "representation", "ema")
        ('gsam', 'gsam@representation+ema')
    """
    name = sharpness if level == "parameter" else f"{sharpness}@{level}"
    return name if weights == "raw" else f"{name}+{weights}"


def sides(contrast: str) -> tuple[str, str]:
    """Splits a contrast into the names of its two arms.

    Args:
        contrast: ``ARM:ARM``. An arm is a preset as `preset_at` names it, or one with its method.

    Returns:
        The names.

    Raises:
        RunError: If there are not two arms, or only one has a method.

    Example:
        >>> sides("erm+ema:gsam"), sides("fairgrad/erm:ls/erm")
        (('erm+ema', 'gsam'), ('fairgrad/erm', 'ls/erm'))
    """
    one, _, other = contrast.partition(":")
    if not one or not other or ":" in other or ("/" in one) != ("/" in other):
        raise RunError(
            f"a contrast must be ARM:ARM, such as erm+ema:gsam for each method or "
            f"fairgrad/erm:ls/erm; found {contrast!r}."
        )
    return one, other
