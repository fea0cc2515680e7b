"""A random direction: the control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from samo.tensors._vector import Vector

from ._base import LocalGradient, Noise, Normalization, Probe, check_choice, normalized


@dataclass(frozen=True)
class RandomDirection(LocalGradient):
    """ĝ_i = z, a random direction that knows nothing of the task: the control that SPSA must beat.

    It is scaled as SPSA's estimate is, so that with the same noise and normalisation the two differ
    in the sign alone, which SPSA spends two evaluations on.

    Args:
        noise: ``"gaussian"`` or ``"rademacher"``.
        normalization: ``"layerwise"``, ``"global"`` or ``"none"``.

    Raises:
        ValueError: If an argument is none of these.
    """

    noise: Noise = "gaussian"
    normalization: Normalization = "layerwise"

    def __post_init__(self) -> None:
        check_choice("noise", self.noise, get_args(Noise))
        check_choice("normalization", self.normalization, get_args(Normalization))

    def estimate(self, probe: Probe) -> Vector:
        """Returns z, normalised."""
        return normalized(probe.draw(self.noise), 1.0, probe, self.normalization)
