"""Perturbations of low-precision parameters, of which rounding takes a part away."""

from __future__ import annotations

import math
import warnings

import torch

from samo.tensors import Vector

from ._point import Point

_LOW = (torch.bfloat16, torch.float16)
# Below this share of ε, it is said what is lost.
_ENOUGH = 0.8


def warn_of_rounding(point: Point, direction: Vector, factor: float, rho: float) -> None:
    r"""Warns if low-precision parameters have moved by much less than ε.

    A bfloat16 number w does not change if less than about :math:`2^{-9} |w|` is added to it. With δ
    the difference that adding ε has made, the share of ε that has arrived is
    :math:`\langle \delta, \varepsilon \rangle / \|\varepsilon\|^2`.

    Args:
        point: The point, displaced.
        direction: The direction; ε is ``factor`` times it.
        factor: The factor.
        rho: The radius ρ.
    """
    arrived = wanted = 0.0
    parts = zip(point.live, point.values.tensors, direction.tensors, strict=True)
    for live, value, part in parts:
        if live.dtype in _LOW:
            epsilon = part.float() * factor
            arrived += torch.sum((live.float() - value.float()) * epsilon).item()
            wanted += epsilon.square().sum().item()
    if math.isfinite(wanted) and arrived < _ENOUGH * wanted:
        warnings.warn(
            f"With rho={rho}, {arrived / wanted:.0%} of the perturbation of low-precision "
            f"parameters arrives, the rest is lost to rounding. Keep the parameters in float32 and "
            f"use torch.autocast for the losses, or choose a larger rho.",
            stacklevel=2,
        )
