"""What several test files use: quadratic tasks with closed forms, a trunk with heads, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Closure = Callable[[Sequence[str]], dict[str, Tensor]]


def in_pairs(
    first: Iterable[Any], second: Iterable[Any], third: Iterable[Any]
) -> list[tuple[Any, Any, Any]]:
    """Combines three axes such that any two values of different axes occur together.

    These are the cells of a Latin rectangle: ``len(first) * len(second)`` cases, where the full
    product has ``len(third)`` times as many. It is enough where no fault needs three particular
    values at once. The third axis must be the shortest.
    """
    rows, columns, symbols = list(first), list(second), list(third)
    assert len(symbols) <= min(len(rows), len(columns)), "the third axis must be the shortest"
    return [
        (row, column, symbols[(i + j) % len(symbols)])
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


class Quadratics(nn.Module):
    """l_i = ½ (x - c_i)ᵀ A_i (x - c_i) + b_i/2 ‖y_i - 1‖²; x is shared, y_i is task i's own."""

    def __init__(self, tasks: Sequence[str] = ("a", "b", "c"), size: int = 5, own: bool = True):
        super().__init__()
        generator = torch.Generator().manual_seed(11)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        roots = {task: draw(size, size) for task in tasks}
        self.A = {t: r @ r.T / size + 0.1 * torch.eye(size).double() for t, r in roots.items()}
        self.c = {task: draw(size) for task in tasks}
        self.b = {task: 0.5 + i for i, task in enumerate(tasks)}
        self.x = nn.Parameter(draw(size))
        self.y = nn.ParameterDict({task: nn.Parameter(draw(2)) for task in tasks if own})

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        out = {}
        for task in tasks:
            away = self.x - self.c[task]
            out[task] = 0.5 * away @ self.A[task] @ away
            if task in self.y:
                out[task] = out[task] + self.b[task] / 2 * (self.y[task] - 1).square().sum()
        return out

    def gradient(self, task: str, at: Tensor | None = None) -> Tensor:
        """A_i (x - c_i), by hand."""
        x = self.x.detach() if at is None else at
        return self.A[task] @ (x - self.c[task])

    def mean_gradient(self, at: Tensor | None = None) -> Tensor:
        """g_0, by hand."""
        return torch.stack([self.gradient(task, at) for task in self.A]).mean(0)


class Heads(nn.Module):
    """A trunk, and a linear head for each task that is evaluated only if asked for."""

    def __init__(
        self, trunk: nn.Module | None = None, width: int = 6, tasks: Sequence[str] = ("a", "b", "c")
    ):
        super().__init__()
        torch.manual_seed(5)
        self.trunk = trunk or nn.Sequential(nn.Linear(4, width), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(width, 2) for task in tasks})

    def losses(self, tasks: Sequence[str], x: Tensor) -> dict[str, Tensor]:
        h, number = self.trunk(x), list(self.heads).index
        return {t: (1 + number(t)) * (self.heads[t](h) - number(t)).square().mean() for t in tasks}


def _named(name: object) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"


def gradients(model: nn.Module) -> dict[str, Any]:
    """Copies of ``.grad`` by name."""
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def same(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> None:
    """Asserts that two mappings hold the same bits."""
    close(one, other, 0.0)


def close(one: Mapping[Any, Any], other: Mapping[Any, Any], tolerance: float = 1e-10) -> None:
    """Asserts that two mappings hold the same tensors, up to rounding."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value is None or other[name] is None:
            assert value is other[name], name
            continue
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, equal_nan=True, msg=_named(name)
        )
