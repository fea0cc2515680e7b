"""The losses on a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samo.engine import displaced, point_of
from samo.model import Journal
from samo.tensors import Layout

from ._data import Data, Losses, Sizes
from ._errors import AnalysisError
from ._plane import Interval, Plane, random_plane
from ._results import Result
from ._undisturbed import undisturbed

Grid = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Landscape(Result):
    """The losses on a grid in a plane.

    Attributes:
        plane: The description of the plane.
        x: The coordinates a along the first direction.
        y: The coordinates b along the second direction.
        losses: The losses by task, a row for each of ``y``; None if they are not finite.
        points: The coordinates of named points on the plane.
    """

    kind: ClassVar[str] = "landscape"

    plane: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    losses: Mapping[str, Grid]
    points: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        """Checks that the grids have the size of the axes."""
        for task, grid in self.losses.items():
            if len(grid) != len(self.y) or any(len(row) != len(self.x) for row in grid):
                raise AnalysisError(
                    f"the losses of {task!r} must be {len(self.y)} rows of {len(self.x)} numbers."
                )

    def grid(self, task: str | None = None) -> NDArray[np.float64]:
        """Returns the losses as an array.

        Args:
            task: The task; None for the mean over the tasks.

        Returns:
            The losses, shape ``[len(y), len(x)]``; NaN if they are not finite.

        Raises:
            KeyError: If the task is unknown.
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
    r"""Evaluates the loss of every task on a grid in a plane of parameter space.

    .. math:: l_i(θ_0 + a x + b y), \qquad (a, b) \in \text{view}

    The batches are iterated over once, and each is evaluated on the whole grid, so that every point
    sees the same data even if the loader shuffles. The model is in evaluation mode: no dropout, and
    BatchNorm uses running statistics. On a plane from `random_plane` these are the model's own;
    on a plane through checkpoints they change with the weights (see `Plane`). Re-estimating them
    at each point would need a further pass. Afterwards, model and random state are restored.

    Args:
        model: The model.
        losses: Maps a batch and task names to the losses, means over the batch.
        batches: The batches.
        tasks: The names of the tasks.
        plane: The plane, from `random_plane` (by default, with seed 0), `plane_through` or
            `trajectory_plane`.
        points: The number of grid points along each direction.
        view: The intervals of a and b; by default, those of the plane.
        sizes: Returns the number of examples in a batch, if it cannot be inferred from the batch.
        progress: Called with the number of finished evaluations of a batch and their total number.

    Returns:
        The losses, means over all examples.

    Raises:
        AnalysisError: If the plane does not fit the model, there is no data, or ``points`` or
            ``view`` is invalid.

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
    kept = displaced(Journal(), ([(point_of(live, layout.empty()), layout.zeros())], 1.0))
    with undisturbed(model), torch.no_grad(), kept:
        for part in data:
            seen: list[dict[str, Tensor]] = []
            for b in y:
                for a in x:
                    torch._foreach_copy_(live, list(plane.at(a, b).values()))
                    # Autocast may hold low-precision copies of the parameters.
                    torch.clear_autocast_cache()
                    with undisturbed(model) as isolated:
                        seen.append(isolated(part.losses))
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
    """Returns the model's tensors that change on the plane, in the plane's order."""
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
