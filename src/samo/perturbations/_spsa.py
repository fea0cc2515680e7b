"""Simultaneous perturbation stochastic approximation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from samo.tensors import Vector, ratio

from ._estimator import LocalGradient, Noise, Normalization, Probe, check_choice


@dataclass(frozen=True)
class SPSA(LocalGradient):
    r"""A gradient estimated from differences of the loss along random directions.

    .. math::
        \hat g_i = \frac{1}{S} \sum_{s=1}^{S}
            \frac{l_i(\theta + \mu z_s) - l_i(\theta - \mu z_s)}{2\mu} \, z_s

    with z drawn anew for each task (Spall 1992; SAMO, Eq. 3), then rescaled to the norm of g_0
    (SAMO, Eq. 4; a "layer" is one parameter tensor, as in the authors' code). It costs 2S
    evaluations per task without a graph, or S if it is not antithetic: the difference is then
    :math:`(l_i(\theta + \mu z) - l_i(\theta)) / \mu` with the natural loss.

    After layerwise normalisation, a single sample keeps only the sign of the directional
    derivative: its cosine with the true gradient in d dimensions is about :math:`\sqrt{2/\pi d}`.

    The authors' code evaluates a deep copy of the model in eval mode. Here the model itself is
    evaluated, in its current mode, with the random numbers of the natural pass.

    Args:
        mu: The step μ of the difference, in units of the parameters; > 0.
        samples: The number S of directions per task; >= 1.
        antithetic: Whether to evaluate at both sides of θ.
        noise: ``"gaussian"`` for z ~ N(0, 1), ``"rademacher"`` for z = ±1.
        normalization: ``"layerwise"``, ``"global"`` or ``"none"``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import samo
        >>> samo.SPSA(mu=0.02, samples=4)
        SPSA(mu=0.02, samples=4, antithetic=True, noise='gaussian', normalization='layerwise')
    """

    references: ClassVar[tuple[str, ...]] = ("spall1992spsa",)

    mu: float = 0.01
    samples: int = 1
    antithetic: bool = True
    noise: Noise = "gaussian"
    normalization: Normalization = "layerwise"

    def __post_init__(self) -> None:
        if not (isinstance(self.mu, int | float) and 0 < self.mu < math.inf):
            raise ValueError(f"mu must be a positive, finite number; found {self.mu!r}.")
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be an integer of at least 1; found {self.samples!r}.")
        check_choice("noise", self.noise, get_args(Noise))
        check_choice("normalization", self.normalization, get_args(Normalization))

    def estimate(self, probe: Probe) -> Vector:
        """Returns the mean over the samples, normalised (see `normalized`)."""
        estimate, factor = self._sample(probe)
        if self.samples > 1:
            estimate.mul_(factor)
            for _ in range(self.samples - 1):
                z, slope = self._sample(probe)
                estimate.add_(z.mul_(slope).tensors)
            factor = 1 / self.samples
        return normalized(estimate, factor, probe, self.normalization)

    def _sample(self, probe: Probe) -> tuple[Vector, Tensor | float]:
        """Returns a direction and the derivative of the loss along it."""
        z = probe.draw(self.noise)
        ahead = probe.loss_at(z, self.mu)
        if self.antithetic:
            return z, (ahead - probe.loss_at(z, -self.mu)) / (2 * self.mu)
        return z, (ahead - probe.loss) / self.mu


def normalized(
    direction: Vector, factor: Tensor | float, probe: Probe, normalization: Normalization
) -> Vector:
    """Rescales an estimate, ``factor * direction``, to the norm of g_0, in place.

    Args:
        direction: A direction.
        factor: Its factor. Only the sign matters, except for ``"none"``.
        probe: Provides g_0.
        normalization: ``"layerwise"``: each parameter tensor d to ‖g_0^d‖ (SAMO, Eq. 4);
            ``"global"``: the whole to ‖g_0‖; ``"none"``: no rescaling.

    Returns:
        The estimate, zero for tensors for which either norm is zero.
    """
    if normalization == "none":
        return direction.mul_(factor)
    if isinstance(factor, Tensor):
        if factor.device.type == "cpu":
            factor = factor.item()
        else:  # without waiting for the device
            direction.mul_(factor.sign())
            factor = 1.0
    sign = float((factor > 0) - (factor < 0))
    if normalization == "global":
        return direction.mul_(ratio(probe.mean.norm(), direction.norm()) * sign)
    if direction.tensors:
        torch._foreach_mul_(direction.tensors, _ratios(probe.mean_norms, direction.norms(), sign))
    return direction


def _ratios(numerators: list[Tensor], denominators: list[Tensor], factor: float) -> list[Any]:
    """Returns quotients of 0-d tensors times a factor, in one operation on other devices."""
    kinds = {(tensor.device, tensor.dtype) for tensor in (*numerators, *denominators)}
    if len(kinds) == 1 and denominators[0].device.type != "cpu":
        return [*(ratio(torch.stack(numerators), torch.stack(denominators)) * factor)]  # type: ignore[misc]
    return [ratio(a, b) * factor for a, b in zip(numerators, denominators, strict=True)]
