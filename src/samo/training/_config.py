"""Validated configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from .. import aggregation, benchmarks
from ..benchmarks import OptimizerName
from ..engine import Level
from ..records import RunError
from ._presets import PRESETS, complete_preset, perturbation
from ._schedule import complete_schedule

LEVELS: tuple[str, ...] = get_args(Level)
_FROM_BENCHMARK = ("epochs", "batch_size", "lr", "weight_decay", "optimizer", "schedule")


class RunConfig(BaseModel):
    """All settings that a run's results depend on. Omitted fields take the benchmark's defaults.

    Attributes:
        benchmark: A benchmark's name, or ``"module:Class"`` for your own.
        benchmark_options: Its options. When a run is resumed, ``data``, the path of the files, may
            differ in all but its last component.
        tasks: The tasks to train; all if omitted. One task alone is a single-task baseline.
        method: The aggregation method's name.
        method_options: Its options.
        sharpness: The sharpness preset's name.
        rho: The radius ρ of the perturbation; None for plain training.
        sharpness_options: The preset's other options, such as alpha, mu and adaptive.
        level: Where task gradients are compared: ``"parameter"`` or ``"representation"`` (see
            `samo.Engine`).
        epochs: The number of passes through the training data.
        batch_size: The number of examples in a step.
        lr: The learning rate.
        weight_decay: The optimizer's weight decay.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (with momentum 0.9).
        schedule: The learning-rate schedule: ``"constant"``, ``"step"``, ``"plateau"`` or
            ``"cosine"``.
        schedule_options: Its options, such as every and factor.
        average_last: The number of last epochs whose mean scores are reported, on test data too; 0
            to report the epoch with the best validation score.
        ema: The decay of the exponential moving average of the weights, in [0, 1); 0 for none. With
            it, raw and averaged weights are both scored.
        clip: The maximum norm of the gradient of all parameters; None for no clipping.
        seed: The seed of all random numbers except the data's.
        threads: The number of threads; fixed, because it changes the rounding of sums.
        device: The device to train on.

    Example:
        >>> config = RunConfig(benchmark="digits", method="fairgrad", sharpness="samo")
        >>> config.rho == config.defaults.rho, config.sharpness_options["alpha"]
        (True, 0.5)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    benchmark: str
    benchmark_options: dict[str, JsonValue] = Field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    method: str = "ls"
    method_options: dict[str, JsonValue] = Field(default_factory=dict)
    sharpness: str = "erm"
    rho: NonNegativeFloat | None = None
    sharpness_options: dict[str, JsonValue] = Field(default_factory=dict)
    level: Level = "parameter"
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    optimizer: OptimizerName
    schedule: str
    schedule_options: dict[str, JsonValue] = Field(default_factory=dict)
    average_last: NonNegativeInt = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: PositiveFloat | None = None
    seed: NonNegativeInt = 0
    threads: PositiveInt = 1
    device: str = "cpu"

    @property
    def defaults(self) -> benchmarks.Defaults:
        """The defaults of the benchmark."""
        return benchmarks.get(self.benchmark).defaults

    def plain(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return self.model_dump(mode="json")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """Fills in the defaults of the benchmark and of the preset."""
        if not isinstance(given, Mapping) or not isinstance(given.get("benchmark"), str):
            return given
        values = {name: value for name, value in given.items() if value is not None}
        defaults = benchmarks.get(values["benchmark"]).defaults
        for name in _FROM_BENCHMARK:
            values.setdefault(name, getattr(defaults, name))
        values["method"] = aggregation.describe(values.get("method", "ls")).name
        name = values.setdefault("sharpness", "erm")
        values["sharpness_options"] = complete_preset(name, values.get("sharpness_options", {}))
        if PRESETS[name].perturb is not None:
            values.setdefault("rho", defaults.rho)
        return _with_protocol(values, defaults)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rho is not None and PRESETS[self.sharpness].perturb is None:
            raise ValueError(f"rho = {self.rho} has no meaning for sharpness {self.sharpness!r}.")
        try:
            perturbation(self.sharpness, self.rho, self.sharpness_options)
        except TypeError as error:
            raise ValueError(f"sharpness_options: {error}") from error
        if self.average_last > self.epochs:
            raise ValueError(
                f"average_last = {self.average_last} exceeds the number of epochs, {self.epochs}."
            )
        return self


def _with_protocol(values: dict[str, Any], defaults: benchmarks.Defaults) -> dict[str, Any]:
    """Fills in the options of the schedule and the number of epochs to average."""
    try:
        epochs = int(values["epochs"])
    except (TypeError, ValueError):
        return values  # reported when the fields are checked
    usual = defaults.schedule_options if values["schedule"] == defaults.schedule else {}
    given = values.get("schedule_options", {})
    values["schedule_options"] = complete_schedule(values["schedule"], {**usual, **given}, epochs)
    # A short trial run must not fail because it has too few epochs.
    values.setdefault("average_last", min(defaults.average_last, max(epochs, 0)))
    return values


def configured(**values: Any) -> RunConfig:
    """Creates a configuration; reports all invalid values in one line.

    Args:
        **values: The fields of `RunConfig`; None means the default.

    Returns:
        The configuration.

    Raises:
        RunError: If a value is invalid.
    """
    try:
        return RunConfig(**values)
    except ValidationError as error:
        raise RunError("; ".join(_line(detail) for detail in error.errors())) from error


def _line(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where} = {detail['input']!r}: {message}" if where else message
