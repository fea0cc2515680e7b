"""The way that a descent has taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ._setting import Setting


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The way that a descent has taken, from its start to where T steps have led.

    Attributes:
        setting: What was run.
        points: The points, ``[T + 1, 2]``.
        losses: The natural losses there, ``[T + 1, 2]``.
    """

    setting: Setting
    points: NDArray[np.float64]
    losses: NDArray[np.float64]

    @property
    def sharpness(self) -> float:
        """The largest eigenvalue λ_max of the Hessian of the mean loss, at the end."""
        return self.setting.problem.sharpness(torch.from_numpy(self.points[-1])).item()

    @property
    def distance(self) -> float | None:
        """The Euclidean distance of the last losses from the Pareto front, in loss space.

        None where the front is not known.
        """
        found = self.setting.problem.distance(torch.from_numpy(self.losses[-1]))
        return None if found is None else found.item()
