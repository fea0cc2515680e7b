"""The capability of weightings that do not depend on the size of the gradients."""

from __future__ import annotations

from abc import ABC

import torchjd.aggregation as agg


class ScaleFree(ABC):  # noqa: B024 - a marker
    r"""Marks a weighting of the Gramian with :math:`w(c \, G) = w(G)` for all c > 0.

    The engine rescales the Gramian to a mean diagonal near 1 for such a weighting, so that its
    tolerances and small constants mean the same for gradients of any size. Custom weightings may
    inherit from this class.
    """


# TorchJD's weightings for which this holds, up to such constants.
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
