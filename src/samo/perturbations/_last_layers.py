"""The exact gradient of the last shared layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from samo.tensors import Vector

from ._estimator import LocalGradient, Probe


@dataclass(frozen=True)
class LastLayers(LocalGradient):
    r"""ĝ_i = ∇l_i with respect to the last shared layers, and g_0 for the earlier ones.

    .. math::
        \hat g_i^d = \nabla_{\theta^d} l_i \ \text{ for the last tensors } d, \qquad
        \hat g_i^d = g_0^d \ \text{ for the others}

    The natural graph is differentiated for each task, but only back to these tensors: K short
    backward passes, each through one head and the last layers. The mean gradient replaces the rest:
    it is computed on the same batch, and contains ∇l_i with weight 1/K. The natural graph is kept
    in memory until the last task is done.

    GradNorm (arXiv 1711.02257, §3.2) uses the gradients of the last shared layer only, MGDA-UB
    (arXiv 1810.04650, §3.3) stops at the shared representation. Both balance tasks by these
    gradients; here they give a direction of ascent.

    Args:
        share: The share of the perturbed shared parameters whose gradient is exact, in (0, 1].
            Tensors are taken in the order of their distance from the losses in the autograd graph.
            With 1 this is `ExactGradient`.

    Raises:
        ValueError: If ``share`` is out of its range.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.05, local=samo.LastLayers(share=0.2)).local
        LastLayers(share=0.2)
    """

    exact: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("chen2018gradnorm", "sener2018mgda")

    share: float = 0.5

    def __post_init__(self) -> None:
        if not (isinstance(self.share, int | float) and 0 < self.share <= 1):
            raise ValueError(f"share must be a number in (0, 1]; found {self.share!r}.")

    def estimate(self, probe: Probe) -> Vector:
        """Returns ∇l_i at the last tensors, g_0 at the others."""
        mean = probe.mean
        sizes = mean.layout.numels
        wanted = self.share * sum(sizes)
        last: list[int] = []
        for i in probe.from_the_loss():
            if last and sum(sizes[j] for j in last) >= wanted:
                break
            last.append(i)
        others = [None if i in last else tensor for i, tensor in enumerate(mean.tensors)]
        return probe.gradient(last).add_(others)
