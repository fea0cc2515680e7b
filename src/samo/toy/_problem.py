"""What a toy problem is: losses of a point in the plane, and how they are customarily descended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Points of the Pareto front that distances are measured to; between them it is taken as straight.
_FINE = 2001


@dataclass(frozen=True)
class Box:
    """A rectangle of the plane, ``low`` and ``high`` being two of its corners."""

    low: tuple[float, float]
    high: tuple[float, float]

    def holds(self, point: Sequence[float]) -> bool:
        """Whether a point lies in it.

        Args:
            point: The point.

        Returns:
            Whether it does.
        """
        return all(a <= x <= b for a, x, b in zip(self.low, point, self.high, strict=True))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the box, ``[.., 2]``.

        Args:
            x: Points, ``[.., 2]``.

        Returns:
            Points within the box.
        """
        return torch.clamp(x, x.new_tensor(self.low), x.new_tensor(self.high))


@dataclass(frozen=True)
class Problem:
    """Two losses of a point x of the plane.

    Attributes:
        name: Its name.
        title: What it is, in a line.
        evaluate: Maps points ``[.., 2]`` to their losses ``[.., 2]``, differentiably.
        starts: Where descents begin.
        view: What a figure of the plane shows.
        lr: Adam's learning rate.
        steps: The number of steps.
        rho: The radius ρ of perturbations.
        methods: The methods that are customarily compared on it.
        presets: The sharpness presets that are.
        box: What x is confined to, by projection after each step; None for the whole plane.
            Perturbed points may lie outside.
        pareto_set: Gives n points of the Pareto set ``[n, 2]``, from one end to the other; None
            where it is not known.
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
        """The losses on the Pareto set.

        Args:
            n: How many points of it.

        Returns:
            Losses ``[n, 2]``, from one end of the front to the other; None where it is not known.
        """
        return None if self.pareto_set is None else self.evaluate(self.pareto_set(n))

    def distance(self, losses: Tensor) -> Tensor | None:
        """The Euclidean distance of losses from the Pareto front, in loss space.

        Args:
            losses: Losses ``[.., 2]``.

        Returns:
            Distances ``[..]``; None where the front is not known.
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
        """The largest eigenvalue λ_max of the Hessian of the mean loss.

        Args:
            x: A point ``[2]``.

        Returns:
            The eigenvalue, a scalar.
        """

        def mean(x: Tensor) -> Tensor:
            return self.evaluate(x).mean()

        # By double backward; x is small.
        hessian = torch.autograd.functional.hessian(mean, x)
        largest: Tensor = torch.linalg.eigvalsh(hessian)[-1]
        return largest


class Point(nn.Module):
    """A point of the plane, as a model for `samo.Engine`: x is its one parameter, in float64.

    Args:
        problem: The problem.
        start: Where the point lies.

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
        """Evaluates the losses.

        Args:
            tasks: The names of those that are wanted.

        Returns:
            The losses by name.
        """
        values = self.problem.evaluate(self.x)
        return {task: values[self.problem.tasks.index(task)] for task in tasks}

    def confine(self) -> None:
        """Projects x onto the problem's box, if it has one."""
        if self.problem.box is not None:
            with torch.no_grad():
                self.x.copy_(self.problem.box.project(self.x))
