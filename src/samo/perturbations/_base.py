"""What an estimator of the local gradient is, and what it may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from samo.tensors._vector import Vector

Noise = Literal["gaussian", "rademacher"]
Normalization = Literal["layerwise", "global", "none"]


class Probe(Protocol):
    """What an estimator may ask about one task, in one step.

    All vectors lie in the space of the shared parameters that are perturbed. Of tasks that are
    perturbed together (see `Grouping`), the loss is the mean of theirs.

    Attributes:
        task: The task's name (of several, the first's).
        loss: l_i(θ), the natural loss, without its graph.
    """

    task: str
    loss: Tensor

    @property
    def names(self) -> list[str]:
        """The names of the parameters, one for each tensor of a vector."""

    @property
    def mean(self) -> Vector:
        """g_0, the gradient of the mean loss; not to be changed, nor kept beyond the step."""

    @property
    def mean_norms(self) -> list[Tensor]:
        """The Euclidean norms of g_0's tensors, in float32 or wider: 0-d tensors."""

    def draw(self, noise: Noise) -> Vector:
        """A fresh random vector, from the engine's own generator."""

    def loss_at(self, direction: Vector, step: float) -> Tensor:
        """l_i(θ + step · direction): one evaluation of task i without a graph."""

    def gradient(self, tensors: Sequence[int] | None = None) -> Vector:
        """∇_θ l_i: one backward pass; only for estimators whose ``exact`` is True.

        Args:
            tensors: The numbers of the tensors to differentiate with respect to, all if left out;
                the others' parts are zero. The pass goes back no further than to these.
        """

    def from_the_loss(self) -> list[int]:
        """The numbers of the tensors, by their distance from the losses in the autograd graph."""


class LocalGradient(ABC):
    """Estimates ĝ_i, the gradient of task i's loss with respect to the shared parameters.

    Attributes:
        exact: Whether `estimate` calls `Probe.gradient`; the natural graph is then kept for it.
        uses_mean: Whether `estimate` asks for `Probe.mean`. Where it does not, is exact, and α = 0,
            no pass is spent on the mean.
        references: The keys of its papers in ``references.bib``.
    """

    exact: ClassVar[bool] = False
    uses_mean: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def estimate(self, probe: Probe) -> Vector:
        """Returns ĝ_i as a vector of its own, which the engine overwrites, now and later."""


class Stateful(LocalGradient):
    """An estimator that knows something from step to step; each engine has a copy of its own."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """A copy of what it knows: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""


class Remembering(Stateful):
    """An estimator that is told every task's sharpness-aware gradient after a step."""

    @abstractmethod
    def remember(self, task: str, gradient: Mapping[str, Tensor]) -> None:
        """Takes note of g_i at the perturbed point, by the names of all shared parameters."""


class Grouping(Stateful):
    """An estimator that has several tasks evaluated at one perturbed point."""

    @abstractmethod
    def group(self, probes: Mapping[str, Probe]) -> list[list[str]]:
        """Divides the tasks; `estimate` is then asked once for each group.

        Args:
            probes: The tasks that are present, in their order.

        Returns:
            The groups: each task in one of them.
        """


def normalized(
    direction: Vector, factor: Tensor | float, probe: Probe, normalization: Normalization
) -> Vector:
    """Rescales an estimate to the size of g_0, in place.

    Args:
        direction: A direction.
        factor: What ĝ_i is a multiple of it by; its sign is all that counts, but for ``"none"``.
        probe: What knows the size of g_0.
        normalization: ``"layerwise"``: on each parameter tensor d to ‖g_0^d‖ (SAMO, Eq. 4);
            ``"global"``: as a whole to ‖g_0‖; ``"none"``: not at all.

    Returns:
        The estimate. A tensor where either is zero gets zero.
    """
    if normalization == "none":
        return direction.mul_(factor)
    if isinstance(factor, Tensor):
        if factor.device.type == "cpu":
            factor = factor.item()
        else:  # which is not waited for
            direction.mul_(factor.sign())
            factor = 1.0
    sign = float((factor > 0) - (factor < 0))
    if normalization == "global":
        return direction.mul_(ratio(probe.mean.norm(), direction.norm()) * sign)
    if direction.tensors:
        torch._foreach_mul_(direction.tensors, _ratios(probe.mean_norms, direction.norms(), sign))
    return direction


def ratio(numerator: Tensor | float, denominator: Tensor) -> Tensor | float:
    """The quotient, and zero where the denominator is zero (or too small to divide by)."""
    # A number on the CPU is at hand, and far quicker to calculate with than a tensor of one
    # element. Other devices are not waited for.
    tiny = torch.finfo(denominator.dtype).tiny
    if denominator.dim() == 0 and denominator.device.type == "cpu":
        divisor = denominator.item()
        return float(numerator) / divisor if divisor > tiny else 0.0
    return torch.where(denominator > tiny, numerator / denominator, 0.0)


def _ratios(numerators: list[Tensor], denominators: list[Tensor], factor: float) -> list[Any]:
    """Quotients of 0-d tensors times a factor, all at once if a device is not waited for."""
    kinds = {(tensor.device, tensor.dtype) for tensor in (*numerators, *denominators)}
    if len(kinds) == 1 and denominators[0].device.type != "cpu":
        return [*(ratio(torch.stack(numerators), torch.stack(denominators)) * factor)]  # type: ignore[misc]
    return [ratio(a, b) * factor for a, b in zip(numerators, denominators, strict=True)]


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {list(choices)}; found {value!r}.")
