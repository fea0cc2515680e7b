"""Learning-rate schedules by name, for the command line and a run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    ReduceLROnPlateau,
    StepLR,
)

from ._defaults import completed


@dataclass(frozen=True)
class Schedule:
    """A rule for the learning rate of each epoch.

    Attributes:
        title: Description in one line.
        make: Creates PyTorch's scheduler from an optimizer, the number of epochs, and the options.
        options: The names of its options, with their defaults.
    """

    title: str
    make: Callable[..., LRScheduler]
    options: Mapping[str, Any]


def _constant(optimizer: Optimizer, epochs: int) -> LRScheduler:  # noqa: ARG001
    return ConstantLR(optimizer, factor=1.0)


def _step(optimizer: Optimizer, epochs: int, every: int, factor: float) -> LRScheduler:  # noqa: ARG001
    return StepLR(optimizer, step_size=every, gamma=factor)


def _plateau(
    optimizer: Optimizer,
    epochs: int,  # noqa: ARG001
    patience: int,
    factor: float,
    min_lr: float,
) -> LRScheduler:
    # With a relative threshold, a worse score would count as better if scores are negative.
    return ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=factor,
        patience=patience,
        threshold=0.0,
        threshold_mode="abs",
        min_lr=min_lr,
    )


def _cosine(optimizer: Optimizer, epochs: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=epochs)


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("constant learning rate", _constant, {}),
    "step": Schedule(
        "multiplied by `factor` every `every` epochs; by default halved halfway through training",
        _step,
        {"every": None, "factor": 0.5},
    ),
    # Defaults of PyTorch Geometric's example for QM9.
    "plateau": Schedule(
        "multiplied by `factor` after over `patience` epochs without a better validation score",
        _plateau,
        {"patience": 5, "factor": 0.7, "min_lr": 1e-5},
    ),
    "cosine": Schedule("cosine annealing to zero", _cosine, {}),
}


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "every": (lambda v: v >= 1 and int(v) == v, "a whole number of at least 1"),
    "patience": (lambda v: v >= 0 and int(v) == v, "a whole number of at least 0"),
    "factor": (lambda v: 0 < v < 1, "between 0 and 1"),
    "min_lr": (lambda v: v >= 0, "at least 0"),
}


def complete_schedule(name: str, options: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Adds the defaults to the options of a schedule, for a number of epochs.

    Returns:
        All options.

    Raises:
        ValueError: If the schedule or an option is unknown, or a value is out of range.

    Example:
        >>> complete_schedule("step", {}, epochs=200)
        {'every': 100, 'factor': 0.5}
    """
    chosen = completed("schedule", name, SCHEDULES, options)
    if "every" in chosen and chosen["every"] is None:
        chosen["every"] = max(1, (epochs + 1) // 2)
    for option, value in chosen.items():
        right, range_ = _RANGES[option]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and right(value)):
            raise ValueError(f"{option} of schedule {name!r} must be {range_}; found {value!r}.")
    return chosen


def advance(made: LRScheduler, score: float) -> None:
    """Steps the scheduler at the end of an epoch; a higher validation `score` is better."""
    if isinstance(made, ReduceLROnPlateau):
        made.step(score)
    else:
        made.step()
