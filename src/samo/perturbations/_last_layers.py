"""The exact gradient of the last shared layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from samo.tensors._vector import Vector

from ._base import LocalGradient, Probe


@dataclass(frozen=True)
class LastLayers(LocalGradient):
    r"""ĝ_i = ∇l_i with respect to the shared layers next to the heads, and g_0 for all before them.

    .. math::
        \hat g_i^d = \nabla_{\theta^d} l_i \ \text{ for the last tensors } d, \qquad
        \hat g_i^d = g_0^d \ \text{ for the others}

    The natural graph is differentiated for each task, but no further back than to these tensors:
    K short backward passes, of which each costs its head and the last layers. The mean gradient
    stands in for the rest: it is of the same batch, and has 1/K of ∇l_i in it. The natural graph is
    kept in memory until the last task is done.

    The last shared layer as a stand-in for all is GradNorm's (arXiv 1711.02257, §3.2), gradients
    that go back no further than to the shared representation are MGDA-UB's (arXiv 1810.04650,
    §3.3); both balance tasks by them, here they give a direction of ascent.

    Args:
        share: The share of the perturbed shared parameters that is to be exact, in (0, 1]. Tensors
            are taken by their distance from the losses in the autograd graph until it is reached.
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
