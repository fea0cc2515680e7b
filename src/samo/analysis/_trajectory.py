"""The trajectory of training, projected onto a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ._errors import AnalysisError
from ._plane import Plane, State, displacements, gramian_of, read_checkpoints, trajectory_plane
from ._results import Result


@dataclass(frozen=True)
class Trajectory(Result):
    """Checkpoints, projected onto a plane.

    Attributes:
        plane: The description of the plane.
        points: The coordinates (a, b) of each checkpoint.
        share: The share of the checkpoints' variance in the plane; None if they do not vary. If it
            is small, the projection hides most of the trajectory.
    """

    kind: ClassVar[str] = "trajectory"

    plane: str
    points: tuple[tuple[float, float], ...]
    share: float | None


def trajectory(
    model: nn.Module, checkpoints: Sequence[State], plane: Plane | None = None
) -> Trajectory:
    r"""Projects checkpoints orthogonally onto a plane.

    Checkpoint w_t has the coordinates (a, b) that minimise :math:`\|θ_0 + a x + b y - w_t\|`, and
    the plane contains the share

    .. math:: \frac{\sum_t \|P (w_t - \bar w)\|^2}{\sum_t \|w_t - \bar w\|^2}

    of their variance, where P projects onto the span of x and y.

    Args:
        model: The model of the checkpoints; it does not change.
        checkpoints: State dicts, in the order of training.
        plane: The plane; by default `trajectory_plane`, which contains the largest share.

    Returns:
        The projected checkpoints.

    Raises:
        AnalysisError: If there are no checkpoints, they or the plane do not fit the model, or they
            do not span a plane and none is given.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> ways = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 0, 0]])
        >>> found = trajectory(model, [{"weight": way.view(1, 3)} for way in ways])
        >>> found.points[-1], round(found.share, 6)
        ((0.0, 0.0), 1.0)
    """
    if not checkpoints:
        raise AnalysisError("checkpoints is empty: there is nothing to project.")
    if plane is None:
        plane = trajectory_plane(model, checkpoints)
    states = read_checkpoints(model, checkpoints)
    x, y, origin = plane.x, plane.y, plane.origin

    def rows(name: str) -> Tensor:
        axes = torch.stack([d[name].flatten().to("cpu", torch.float64) for d in (x, y)])
        return torch.cat([axes, displacements(states, origin, name)])

    # Parameters that are fixed on a random plane contribute to the variance too.
    gramian = gramian_of(plane.parameters, rows)
    basis = gramian[:2, :2]
    coordinates = np.linalg.solve(basis, gramian[:2, 2:]).T
    n = len(states)
    centre = np.eye(n) - 1.0 / n
    total = np.trace(centre @ gramian[2:, 2:] @ centre)
    centred = centre @ coordinates
    held = np.einsum("ti,ij,tj->", centred, basis, centred)
    return Trajectory(
        plane.description,
        tuple((float(a), float(b)) for a, b in coordinates),
        float(np.clip(held / total, 0.0, 1.0)) if total > 0 else None,
    )
