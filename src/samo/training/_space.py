"""Search spaces of a sweep: ranges and lists of values, and arms that search them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import aggregation
from .._names import unknown
from ..records import RunError
from ._config import RunConfig, configured
from ._plan import Cell, arm_path
from ._presets import PRESETS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = str | int | float | bool | None

_FIELDS = ("rho", "lr", "weight_decay", "batch_size", "epochs", "optimizer", "clip", "schedule")
_GROUPS = ("sharpness_options", "method_options", "schedule_options", "benchmark_options")
_LOG_FROM = 10  # a range with at least this ratio of its ends is logarithmic by default


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; integers if both are.

    Attributes:
        low: The lowest value.
        high: The highest value.
        log: Whether to draw on a logarithmic scale.
    """

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values to validate on behalf of the whole range."""
        return self.low, self.high

    def distribution(self) -> BaseDistribution:
        """Returns the equivalent Optuna distribution."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class Choices:
    """A list of values.

    Attributes:
        values: The values.
    """

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values to validate: all."""
        return self.values

    def distribution(self) -> BaseDistribution:
        """Returns the equivalent Optuna distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def __str__(self) -> str:
        return ",".join(
            value if isinstance(value, str) else json.dumps(value) for value in self.values
        )


Space = Mapping[str, Range | Choices]


def parse(name: str, text: str) -> Range | Choices:
    """Parses a range ``a..b`` or a list ``a,b,c``.

    The scale of a range is logarithmic if the ratio of its ends is at least 10, otherwise linear;
    ``a..b:log`` and ``a..b:linear`` set it. Values of a list that are not JSON are strings.

    Returns:
        The range or list.

    Raises:
        RunError: If it is neither, or the range is empty; the message begins with `name`.

    Example:
        >>> print(parse("lr", "1e-4..1e-2"), parse("alpha", "0.1..0.9"), parse("rho", "0.05,0.1"))
        0.0001..0.01:log 0.1..0.9:linear 0.05,0.1
    """
    if ".." not in text:
        values = dict.fromkeys(_value(part.strip()) for part in text.split(",") if part.strip())
        if not values:
            raise RunError(f"{name} must be a range a..b or a list a,b,c; found {text!r}.")
        return Choices(tuple(values))
    interval, _, scale = text.partition(":")
    first, _, second = interval.partition("..")
    low, high = _number(name, text, first), _number(name, text, second)
    if scale not in {"", "log", "linear"}:
        raise RunError(f"the scale of {name} must be log or linear; found {text!r}.")
    if low >= high:
        raise RunError(f"{name} must be a range with the lower end first; found {text!r}.")
    if scale == "log" and low <= 0:
        raise RunError(f"{name} must be positive on a log scale; found {text!r}.")
    return Range(low, high, scale == "log" or (not scale and low > 0 and high / low >= _LOG_FROM))


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool | None) else text


def _number(name: str, whole: str, text: str) -> float:
    text = text.strip()
    try:
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError as error:
        raise RunError(f"{name} must be a range of numbers a..b; found {whole!r}.") from error
    if not math.isfinite(value):
        raise RunError(f"{name} must be a range of finite numbers; found {whole!r}.")
    return value


def full_name(name: str) -> str:
    """Checks the name of a setting to search, and returns its full name.

    Args:
        name: A field of `RunConfig`, an option as ``sharpness_options.mu``, or ``alpha``.

    Returns:
        The full name.

    Raises:
        RunError: If a sweep cannot search it.

    Example:
        >>> full_name("alpha")
        'sharpness_options.alpha'
    """
    if name == "alpha":
        return "sharpness_options.alpha"
    group, dot, option = name.partition(".")
    if name in _FIELDS or (group in _GROUPS and option):
        return name
    known = [*_FIELDS, "alpha", *(f"{group}.NAME" for group in _GROUPS)]
    raise RunError(unknown("setting to search", name if dot else group, known))


@dataclass(frozen=True)
class Arm:
    """A method with a preset at a level, and its search space.

    Attributes:
        method: The aggregation method.
        sharpness: The preset.
        level: Where task gradients are compared.
        space: The ranges and lists of values, by the full name of the setting.
        common: The other fields of its configuration.
    """

    method: str
    sharpness: str
    level: str
    space: Space
    common: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and preset, with the level if it is not the default."""
        return arm_path(self.method, self.sharpness, self.level)

    @property
    def free(self) -> bool:
        """Whether any setting has more than one value."""
        return any(isinstance(r, Range) or len(r.values) > 1 for r in self.space.values())

    def config(self, params: Mapping[str, Any], seed: int) -> RunConfig:
        """Creates the configuration of a run from chosen values by full name."""
        values: dict[str, Any] = {**self.common, "method": self.method, "seed": seed}
        values |= {"sharpness": self.sharpness, "level": self.level}
        for name, value in params.items():
            group, _, option = name.partition(".")
            values[group] = {**(values.get(group) or {}), option: value} if option else value
        return configured(**values)

    def trial(self, slot: int) -> str:
        """Returns the directory of a trial, relative to the sweep's."""
        return f"{self.name}/trial-{slot:03d}"

    def cell(
        self,
        trial: str,
        params: Mapping[str, Any],
        seed: int,
        weights: tuple[str, ...] | None = None,
    ) -> Cell:
        """Creates a run of a trial, given its directory."""
        return Cell(f"{trial}/seed-{seed}", self.config(params, seed), weights=weights)


def applies(name: str, method: str, sharpness: str) -> bool:
    """Whether a method with a preset has a setting, given its full name."""
    group, _, option = name.partition(".")
    if name == "rho":
        return PRESETS[sharpness].perturb is not None
    if group == "sharpness_options":
        return option in PRESETS[sharpness].options
    if group == "method_options":
        return option in aggregation.describe(method).options
    return True
