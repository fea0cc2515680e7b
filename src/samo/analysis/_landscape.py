"""The losses on a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samo.model import displaced, point_of
from samo.tensors import Layout

from ._data import Data, Losses, Sizes
from ._errors import AnalysisError
from ._plane import Interval, Plane, random_plane
from ._results import Result
from ._undisturbed import undisturbed

Grid = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Landscape(Result):
    """The losses on a plane.

    Attributes:
        plane: How the plane was made.
        x: The coordinates a along the first direction.
        y: The coordinates b along the second direction.
        losses: By task the losses, a row for each of ``y``; None where they are not finite.
        points: The coordinates of what lies on the plane, by name.
    """

    kind: ClassVar[str] = "landscape"

    plane: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    losses: Mapping[str, Grid]
    points: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        """Refuses grids that are not of the axes' size."""
        for task, grid in self.losses.items():
            if len(grid) != len(self.y) or any(len(row) != len(self.x) for row in grid):
                raise AnalysisError(
                    f"the losses of {task!r} must be {len(self.y)} rows of {len(self.x)} numbers."
                )

    def grid(self, task: str | None = None) -> NDArray[np.float64]:
        """Gives the losses as an array.

        Args:
            task: The task; None for the mean of all tasks' losses.

        Returns:
            The losses, of shape ``[len(y), len(x)]``; NaN where they are not finite.

        Raises:
            KeyError: If there is no such task.
        """
        if task is not None:
            return np.array(self.losses[task], dtype=np.float64)
        grids = np.stack([self.grid(task) for task in self.losses])
        mean: NDArray[np.float64] = grids.mean(axis=0)
        return mean


def landscape(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    plane: Plane | None = None,
    *,
    points: int = 21,
    view: tuple[Interval, Interval] | None = None,
    sizes: Sizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Landscape:
    r"""Evaluates every task's loss on a grid over a plane in the space of the parameters.

    .. math:: l_i(θ_0 + a x + b y), \qquad (a, b) \in \text{view}

    The batches are gone through once, each of them evaluated on the whole grid, so that every
    point of it sees the same data, whatever the loader shuffles or draws. The model is in
    evaluation mode: no dropout, and BatchNorm uses its running statistics, those of the model on a
    plane that `random_plane` gives; through checkpoints they change along with the weights (see
    `Plane`). They are not estimated anew at each point, which the weights far from any training
    would make cost a further pass. Afterwards the model and the random numbers are as before.

    Args:
        model: The model.
        losses: Maps a batch and the names of tasks to their losses, means over the batch.
        batches: The batches.
        tasks: The names of the tasks.
        plane: The plane, of `random_plane` (if left out, with seed 0), `plane_through` or
            `trajectory_plane`.
        points: How many points the grid has along each direction.
        view: The intervals of a and b; the plane's own if left out.
        sizes: The number of a batch's examples, where it cannot be told from the batch.
        progress: Is told how many evaluations of a batch are done, and of how many.

    Returns:
        The losses, means over all examples.

    Raises:
        AnalysisError: If the plane does not fit the model, there is no data, or ``points`` or
            ``view`` make no grid.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> def losses(batch, tasks):
        ...     error = (model(batch) - 1).square().mean()
        ...     return {task: {"a": error, "b": 2 * error}[task] for task in tasks}
        >>> found = landscape(model, losses, [torch.eye(2)], ["a", "b"], points=5)
        >>> found.grid("a").shape, bool((found.grid("b") == 2 * found.grid("a")).all())
        ((5, 5), True)
    """
    if plane is None:
        plane = random_plane(model)
    if points < 2:
        raise AnalysisError(f"points must be at least 2; found {points}.")
    (low_a, high_a), (low_b, high_b) = view or plane.view
    x, y = _axis("a", low_a, high_a, points), _axis("b", low_b, high_b, points)
    live = _live(model, plane)
    data = Data(losses, batches, tasks, sizes)
    sums = {task: torch.zeros(points, points, dtype=torch.float64) for task in data.tasks}
    n_all, n_done = points * points * data.n_batches, 0
    layout = Layout(live)
    kept = displaced([(point_of(live, layout.empty()), layout.zeros())])
    with undisturbed(model), torch.no_grad(), kept:
        for part in data:
            seen: list[dict[str, Tensor]] = []
            for b in y:
                for a in x:
                    torch._foreach_copy_(live, list(plane.at(a, b).values()))
                    # Autocast may hold low-precision copies of the parameters.
                    torch.clear_autocast_cache()
                    with undisturbed(model) as alone:
                        seen.append(alone(part.losses))
                    n_done += 1
                    if progress:
                        progress(n_done, n_all)
            for task in seen[0]:
                grid = torch.stack([at[task] for at in seen]).cpu().double()
                sums[task] += part.shares[task] * grid.view(points, points)
    return Landscape(
        plane.description,
        tuple(x),
        tuple(y),
        {task: _finite(grid) for task, grid in sums.items()},
        dict(plane.points),
    )


def _axis(name: str, low: float, high: float, points: int) -> list[float]:
    if not -np.inf < low < high < np.inf:
        raise AnalysisError(f"view must be two intervals; found {name} from {low} to {high}.")
    found: list[float] = np.linspace(low, high, points).tolist()
    return found


def _live(model: nn.Module, plane: Plane) -> list[Tensor]:
    """The model's own tensors that move on the plane, in the plane's order."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, origin in plane.origin.items():
        if name not in tensors or tensors[name].shape != origin.shape:
            raise AnalysisError(
                f"the plane does not fit the model, which has no {name!r} of shape "
                f"{list(origin.shape)}."
            )
    return [tensors[name].data for name in plane.origin]


def _finite(grid: Tensor) -> Grid:
    rows: list[list[float]] = grid.tolist()
    return tuple(tuple(v if np.isfinite(v) else None for v in row) for row in rows)
