"""What a sweep chooses from: ranges and lists, and which of them an arm has."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import aggregation
from .._names import unknown
from ._config import RunConfig, configured
from ._errors import RunError
from ._sharpness import PRESETS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = str | int | float | bool | None

_FIELDS = (
    "rho",
    "lr",
    "weight_decay",
    "batch_size",
    "epochs",
    "optimizer",
    "clip",
    "schedule",
)
_GROUPS = ("sharpness_options", "method_options", "schedule_options", "benchmark_options")
_LOG_FROM = 10  # the ratio from which a range is divided by logarithms, if nothing else is said


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; whole ones if both are whole.

    Attributes:
        low: The lowest.
        high: The highest.
        log: Whether to draw by logarithms.
    """

    low: float
    high: float
    log: bool

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that bound all others."""
        return self.low, self.high

    def distribution(self) -> BaseDistribution:
        """Gives Optuna's counterpart."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True)
class Choices:
    """One of a list.

    Attributes:
        values: The list.
    """

    values: tuple[Value, ...]

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that bound all others: all of them."""
        return self.values

    def distribution(self) -> BaseDistribution:
        """Gives Optuna's counterpart."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def __str__(self) -> str:
        return ",".join(
            value if isinstance(value, str) else json.dumps(value) for value in self.values
        )


Space = Mapping[str, Range | Choices]


def parse(name: str, text: str) -> Range | Choices:
    """Reads a range ``a..b`` or a list ``a,b,c``.

    A range is drawn from by logarithms if its ends are a factor of 10 or more apart, else evenly;
    ``a..b:log`` and ``a..b:linear`` say which. Values of a list are JSON; what is not, is text.

    Args:
        name: What it is for.
        text: What was typed.

    Returns:
        The range or list.

    Raises:
        RunError: If it is neither, or the range is empty.

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
        raise RunError(f"{name} must be a range from the lower to the higher; found {text!r}.")
    if scale == "log" and low <= 0:
        raise RunError(f"{name} must be above zero for the scale log; found {text!r}.")
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
    """Checks the name of what is to be chosen.

    Args:
        name: A field of `RunConfig`, an option as ``sharpness_options.mu``, or ``alpha``.

    Returns:
        The name in full.

    Raises:
        RunError: If a sweep cannot choose it.

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
    raise RunError(unknown("setting to choose", name if dot else group, known))


@dataclass(frozen=True)
class Arm:
    """A method with a preset, and what is to be chosen for it.

    Attributes:
        method: The aggregation method.
        sharpness: The preset.
        space: What to choose from, by full names; only what this arm has.
        common: The other fields of its configuration.
    """

    method: str
    sharpness: str
    space: Space
    common: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Method and preset."""
        return f"{self.method}/{self.sharpness}"

    @property
    def free(self) -> bool:
        """Whether there is anything to choose."""
        return any(isinstance(r, Range) or len(r.values) > 1 for r in self.space.values())

    def config(self, params: Mapping[str, Any], seed: int) -> RunConfig:
        """Makes the configuration of a run.

        Args:
            params: The values that were chosen, by full names.
            seed: The seed.

        Returns:
            The configuration.
        """
        values: dict[str, Any] = {**self.common, "method": self.method, "seed": seed}
        values["sharpness"] = self.sharpness
        for name, value in params.items():
            group, _, option = name.partition(".")
            values[group] = {**(values.get(group) or {}), option: value} if option else value
        return configured(**values)


def applies(name: str, method: str, sharpness: str) -> bool:
    """Whether a method with a preset has a setting.

    Args:
        name: Its full name.
        method: The method.
        sharpness: The preset.

    Returns:
        Whether there is such a setting.
    """
    group, _, option = name.partition(".")
    if name == "rho":
        return PRESETS[sharpness].perturb is not None
    if group == "sharpness_options":
        return option in PRESETS[sharpness].options
    if group == "method_options":
        return option in aggregation.describe(method).options
    return True
