"""A naive sharpness-aware multi-task step, written straight from the equations.

Every evaluation is of a fresh deep copy of the model, from the same random state, for all tasks at
once; every vector is one long tensor. Nothing here is shared with the package.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NO_NOISE: Iterator[Tensor] = iter(())


@dataclass
class Problem:
    """A model and its losses; which parameters are whose, by name."""

    model: nn.Module
    tasks: Sequence[str]
    losses: Callable[[nn.Module, Sequence[str]], dict[str, Tensor]]
    shared: Sequence[str]
    own: Mapping[str, Sequence[str]]


def evaluate(
    problem: Problem, task: str, displacement: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """l_i and its gradients (zero where it has none) at the parameters plus a displacement."""
    model = copy.deepcopy(problem.model)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, delta in displacement.items():
            parameters[name].add_(delta)
    with torch.random.fork_rng():
        loss = problem.losses(model, problem.tasks)[task]
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    return loss.detach(), {n: torch.zeros_like(p) if g is None else g for (n, p), g in pairs}


def step(
    problem: Problem,
    aggregate: Callable[[Tensor, Tensor], Tensor],
    weigh_own: Callable[[Tensor], Tensor],
    *,
    rho: float = 0.0,
    rho_own: float | None = None,
    alpha: float = 0.5,
    estimate: str = "exact",
    mu: float = 0.01,
    samples: int = 1,
    antithetic: bool = True,
    normalization: str = "layerwise",
    previous: Sequence[Tensor] | None = None,
    adaptive: bool = False,
    decompose: bool = False,
    where: Callable[[str], Tensor | bool] = lambda name: True,
    noise: Iterator[Tensor] = NO_NOISE,
    velocity: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients by parameter name, and the task gradients g_i as the rows of a matrix.

    With a ``velocity`` v, all are evaluated at w - rho v/|v| only, w all trained parameters.
    """
    named = dict(problem.model.named_parameters())
    shapes = {n: named[n].shape for n in named}
    theta = {n: named[n].detach() for n in named}

    def flat(values: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
        return torch.cat(
            [values[n].flatten() for n in names] or [next(iter(theta.values())).new_zeros(0)]
        )

    def split(vector: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        parts = vector.split([shapes[n].numel() for n in names])
        return {n: part.view(shapes[n]) for n, part in zip(names, parts, strict=True)}

    def mask(names: Sequence[str]) -> Tensor:
        return flat({n: torch.ones_like(theta[n]) * where(n) for n in names}, names)

    def to_radius(u: Tensor, names: Sequence[str], rho: float = rho) -> dict[str, Tensor]:
        t = flat(theta, names).abs() if adaptive else torch.ones_like(u)
        u = u * mask(names)
        norm = (t * u).norm()
        return split(rho * t**2 * u / norm if norm > 0 else torch.zeros_like(u), names)

    shared = list(problem.shared)
    radius_own = rho if rho_own is None else rho_own
    here: dict[str, Tensor] = {}
    if velocity is not None:
        trained = [*shared, *(n for task in problem.tasks for n in problem.own[task])]
        here = to_radius(-flat(velocity, trained), trained)
    natural = [evaluate(problem, task, here) for task in problem.tasks]
    exact = [flat(gradients, shared) for _, gradients in natural]
    g_0 = torch.stack(exact).mean(0)

    def spsa(i: int) -> Tensor:
        task, total = problem.tasks[i], torch.zeros_like(g_0)
        for _ in range(samples):
            z = next(noise) * mask(shared)
            ahead = evaluate(problem, task, split(mu * z, shared))[0]
            if antithetic:
                slope = (ahead - evaluate(problem, task, split(-mu * z, shared))[0]) / (2 * mu)
            else:
                slope = (ahead - natural[i][0]) / mu
            total += slope * z / samples
        return normalized(total)

    def normalized(g: Tensor) -> Tensor:
        reference = g_0 * mask(shared)
        if normalization == "none":
            return g
        if normalization == "global":
            return g * (reference.norm() / g.norm()).nan_to_num(0, 0, 0)
        parts, references = split(g, shared), split(reference, shared)
        for n, part in parts.items():
            parts[n] = part * (references[n].norm() / part.norm()).nan_to_num(0, 0, 0)
        return flat(parts, shared)

    rows, own = [], {}
    for i, task in enumerate(problem.tasks):
        if velocity is not None or rho == radius_own == 0:
            displacement = here
        else:
            if alpha == 1:
                local = torch.zeros_like(g_0)
            elif estimate == "exact":
                local = exact[i]
            elif estimate == "spsa":
                local = spsa(i)
            elif estimate == "random":
                local = normalized(next(noise) * mask(shared))
            else:
                local = g_0 if previous is None else previous[i]
            epsilon = to_radius(alpha * g_0 + (1 - alpha) * local, shared)
            names = list(problem.own[task])
            displacement = epsilon | to_radius(flat(natural[i][1], names), names, radius_own)
        _, gradients = evaluate(problem, task, displacement)
        rows.append(flat(gradients, shared))
        own[task] = {n: gradients[n] for n in problem.own[task]}
    matrix = torch.stack(rows)
    losses = torch.stack([loss for loss, _ in natural])
    if decompose and (rho > 0 or radius_own > 0):
        loss_matrix = torch.stack(exact)
        update = aggregate(loss_matrix, losses) + aggregate(matrix - loss_matrix, losses)
    else:
        update = aggregate(matrix, losses)
    result = split(update, shared)
    for task, weight in zip(problem.tasks, weigh_own(losses), strict=True):
        result |= {n: weight * g for n, g in own[task].items()}
    return result, matrix
