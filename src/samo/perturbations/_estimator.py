"""The interface of an estimator of the local gradient, and of its probe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from samo.tensors import Vector

Noise = Literal["gaussian", "rademacher"]
Normalization = Literal["layerwise", "global", "none"]


class Probe(Protocol):
    """The quantities that an estimator may request about one task in a step.

    All vectors are in the space of the shared parameters that are perturbed. For tasks that are
    perturbed together (see `LocalGradient.group`), the loss is the mean of their losses.

    Attributes:
        task: The task's name (for several tasks, that of the first).
        loss: l_i(θ), the natural loss, without its graph.
    """

    @property
    def task(self) -> str: ...

    @property
    def loss(self) -> Tensor: ...

    @property
    def names(self) -> list[str]:
        """The names of the parameters, one for each tensor of a vector."""

    @property
    def mean(self) -> Vector:
        """g_0, the gradient of the mean loss; it must not be changed, nor kept after the step."""

    @property
    def mean_norms(self) -> list[Tensor]:
        """The Euclidean norms of g_0's tensors, in float32 or wider: 0-d tensors."""

    def draw(self, noise: Noise) -> Vector:
        """Returns a new random vector, drawn from the engine's own generator."""

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        """Returns l_i(θ + step · direction): one evaluation of task i without a graph."""

    def gradient(self, tensors: Sequence[int] | None = None) -> Vector:
        """Returns ∇_θ l_i by one backward pass; only for estimators whose ``exact`` is True.

        Args:
            tensors: The indices of the tensors to differentiate with respect to, all if None; the
                gradients of the others are zero. The pass stops at these tensors.
        """

    def from_the_loss(self) -> list[int]:
        """Returns the indices of the tensors, nearest to the losses in the autograd graph first."""


class LocalGradient(ABC):
    """Estimates ĝ_i, the gradient of task i's loss with respect to the shared parameters.

    Attributes:
        exact: Whether `estimate` calls `Probe.gradient`; the natural graph is then retained.
        uses_mean: Whether `estimate` reads `Probe.mean`. If False, it is not computed for an exact
            estimator with α = 0.
        groups_tasks: Whether `group` puts several tasks at one perturbed point.
        remembers: Whether it needs every task's sharpness-aware gradient after a step (`remember`).
        stateful: Whether it keeps state between steps; each engine then has its own copy.
        references: The keys of its papers in ``references.bib``.
    """

    exact: ClassVar[bool] = False
    uses_mean: ClassVar[bool] = True
    groups_tasks: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    stateful: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def estimate(self, probe: Probe) -> Vector:
        """Returns ĝ_i as a new vector, which the engine overwrites later."""

    def group(self, probes: Mapping[str, Probe]) -> list[list[str]]:
        """Divides the tasks into groups with one perturbed point each (if `groups_tasks`).

        Args:
            probes: The tasks that are present, in their order.

        Returns:
            The groups; each task is in one of them. `estimate` is called once for each group.
        """
        return [[task] for task in probes]

    def remember(self, task: str, gradient: Mapping[str, Tensor]) -> None:  # noqa: B027 - optional
        """Records g_i at the perturbed point, by the names of all shared parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Returns a copy of its state: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Restores a state from `state_dict`."""


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a ValueError for a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {list(choices)}; found {value!r}.")
