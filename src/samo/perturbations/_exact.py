"""The exact local gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from samo.tensors import Vector

from ._estimator import LocalGradient, Probe


@dataclass(frozen=True)
class ExactGradient(LocalGradient):
    """ĝ_i = ∇_θ l_i, by one backward pass per task on the natural graph.

    With α = 0 this is L-SAM (SAMO, §4.2) and the perturbation of F-MTL (arXiv 2211.13723, Alg. 1).
    The natural graph is kept in memory until the last task is done.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.05, alpha=0.0, local=samo.ExactGradient()).local
        ExactGradient()
    """

    exact: ClassVar[bool] = True
    uses_mean: ClassVar[bool] = False

    def estimate(self, probe: Probe) -> Vector:
        """Returns ∇_θ l_i."""
        return probe.gradient()
