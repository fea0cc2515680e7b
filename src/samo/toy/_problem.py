"""The definition of a toy problem: losses of a point in the plane, with default settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The number of points of the polygon that approximates the Pareto front in distances.
_FINE = 2001


@dataclass(frozen=True)
class Box:
    """A rectangle in the plane between the corners ``low`` and ``high``."""

    low: tuple[float, float]
    high: tuple[float, float]

    def holds(self, point: Sequence[float]) -> bool:
        """Returns whether a point is in the box."""
        return all(a <= x <= b for a, x, b in zip(self.low, point, self.high, strict=True))

    def project(self, x: Tensor) -> Tensor:
        """Projects points, ``[.., 2]``, onto the box."""
        return torch.clamp(x, x.new_tensor(self.low), x.new_tensor(self.high))


@dataclass(frozen=True)
class Problem:
    """Two losses of a point x of the plane.

    Attributes:
        name: The name.
        title: A description in one line.
        evaluate: Maps points ``[.., 2]`` to their losses ``[.., 2]``, differentiably.
        starts: The starting points.
        view: The part of the plane that figures show.
        lr: The default learning rate of Adam.
        steps: The default number of steps.
        rho: The default radius ρ of perturbations.
        methods: The methods to compare by default.
        presets: The sharpness presets to compare by default.
        box: The feasible set, onto which x is projected after each step; None for the whole plane.
            Perturbed points may be outside.
        pareto_set: Returns n points of the Pareto set ``[n, 2]``, from one end to the other; None
            if it is unknown.
    """

    name: str
    title: str
    evaluate: Callable[[Tensor], Tensor]
    starts: tuple[tuple[float, float], ...]
    view: Box
    lr: float
    steps: int
    rho: float
    methods: tuple[str, ...] = ("ls",)
    presets: tuple[str, ...] = ("erm", "gsam")
    box: Box | None = None
    pareto_set: Callable[[int], Tensor] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the losses."""
        return ("l1", "l2")

    def pareto_front(self, n: int = _FINE) -> Tensor | None:
        """Computes the losses on the Pareto set.

        Args:
            n: The number of points.

        Returns:
            Losses ``[n, 2]``, from one end of the front to the other; None if it is unknown.
        """
        return None if self.pareto_set is None else self.evaluate(self.pareto_set(n))

    def distance(self, losses: Tensor) -> Tensor | None:
        """Computes the Euclidean distance of losses from the Pareto front.

        Args:
            losses: Losses ``[.., 2]``.

        Returns:
            Distances ``[..]``; None if the front is unknown.
        """
        front = self.pareto_front()
        if front is None:
            return None
        begin, along = front[:-1], front.diff(dim=0)
        beyond = losses[..., None, :] - begin
        share = (beyond * along).sum(-1) / along.square().sum(-1)
        gaps = beyond - share.clamp(0, 1)[..., None] * along
        nearest: Tensor = gaps.norm(dim=-1).amin(-1)
        return nearest

    def sharpness(self, x: Tensor) -> Tensor:
        """Computes the largest Hessian eigenvalue λ_max of the mean loss at a point ``[2]``."""

        def mean(x: Tensor) -> Tensor:
            return self.evaluate(x).mean()

        # By double backward; x is small.
        hessian = torch.autograd.functional.hessian(mean, x)
        largest: Tensor = torch.linalg.eigvalsh(hessian)[-1]
        return largest


class Point(nn.Module):
    """A point of the plane as a model for `samo.Engine`: its only parameter is x, in float64.

    Args:
        problem: The problem.
        start: The initial point.

    Example:
        >>> import samo
        >>> point = Point(samo.toy.VALLEY, (-6.0, 1.0))
        >>> engine = samo.ERM(point, point.problem.tasks, aggregator="mgda", shared=point)
        >>> result = engine.backward(point)
        >>> point.x.grad.shape
        torch.Size([2])
    """

    def __init__(self, problem: Problem, start: Sequence[float]) -> None:
        super().__init__()
        self.problem = problem
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the losses with these names."""
        values = self.problem.evaluate(self.x)
        return {task: values[self.problem.tasks.index(task)] for task in tasks}

    def confine(self) -> None:
        """Projects x onto the problem's box, if it has one."""
        if self.problem.box is not None:
            with torch.no_grad():
                self.x.copy_(self.problem.box.project(self.x))
