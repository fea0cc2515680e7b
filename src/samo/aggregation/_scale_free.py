"""Weightings that do not care about the size of the gradients."""

from __future__ import annotations

from abc import ABC

import torchjd.aggregation as agg


class ScaleFree(ABC):  # noqa: B024 - a mark
    r"""Marks a weighting of the Gramian with :math:`w(c \, G) = w(G)` for all c > 0.

    The engine shows it a Gramian whose diagonal has the mean 1, so that constants within it that
    guard against zero or end an iteration mean the same for gradients of all sizes. A weighting of
    your own may inherit it.
    """


# TorchJD's weightings of which this is true but for such constants.
for _kind in (
    agg.AlignedMTLWeighting,
    agg.CAGradWeighting,
    agg.DualProjWeighting,
    agg.GradVacWeighting,
    agg.IMTLGWeighting,
    agg.KrumWeighting,
    agg.MGDAWeighting,
    agg.PCGradWeighting,
    agg.UPGradWeighting,
):
    ScaleFree.register(_kind)
