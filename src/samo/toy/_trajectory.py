"""The trajectory of a descent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ._setting import Setting


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The trajectory of a descent of T steps.

    Attributes:
        setting: The setting.
        points: The points, ``[T + 1, 2]``.
        losses: The natural losses at these points, ``[T + 1, 2]``.
    """

    setting: Setting
    points: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def sharpness(self) -> float:
        """The largest eigenvalue λ_max of the Hessian of the mean loss at the last point."""
        return self.setting.problem.sharpness(torch.from_numpy(self.points[-1])).item()

    @property
    def distance(self) -> float | None:
        """The Euclidean distance of the last losses from the Pareto front; None if unknown."""
        found = self.setting.problem.distance(torch.from_numpy(self.losses[-1]))
        return None if found is None else found.item()
