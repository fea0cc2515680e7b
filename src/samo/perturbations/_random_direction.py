"""A random direction: the control experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from samo.tensors import Vector

from ._estimator import LocalGradient, Noise, Normalization, Probe, check_choice
from ._spsa import normalized


@dataclass(frozen=True)
class RandomDirection(LocalGradient):
    """ĝ_i = z, a random direction independent of the task: the control that SPSA must beat.

    It is scaled like SPSA's estimate: with the same noise and normalisation, the two differ only in
    the sign, for which SPSA needs two evaluations.

    Args:
        noise: ``"gaussian"`` or ``"rademacher"``.
        normalization: ``"layerwise"``, ``"global"`` or ``"none"``.

    Raises:
        ValueError: If an argument has another value.
    """

    noise: Noise = "gaussian"
    normalization: Normalization = "layerwise"

    def __post_init__(self) -> None:
        check_choice("noise", self.noise, get_args(Noise))
        check_choice("normalization", self.normalization, get_args(Normalization))

    def estimate(self, probe: Probe) -> Vector:
        """Returns z, normalised."""
        return normalized(probe.draw(self.noise), 1.0, probe, self.normalization)
