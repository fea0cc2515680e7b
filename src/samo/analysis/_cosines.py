"""Cosines and conflicts of task gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from samo.engine import Declared, StepResult, stable_repr
from samo.perturbations import Displacement
from samo.tensors import Matrix, ratio

from ._data import Data, Losses, Sizes
from ._results import Result
from ._steps import steps
from ._undisturbed import undisturbed

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Cosines(Result):
    """The cosines of task gradients (SAMO, Figures 2 and 5).

    The gradients are with respect to the shared parameters. A zero gradient has cosine 0 with every
    other.

    Attributes:
        tasks: The tasks, in the order of rows and columns.
        matrix: The cosines of the gradients of the losses over all batches, K × K.
        norms: The norms of these gradients.
        conflicts: The share of task pairs with a negative inner product of these gradients; None
            for one task.
        batch_matrix: The mean over the batches of the cosines within a batch, K × K, as in
            training. 0 for two tasks without a common batch.
        batch_conflicts: The mean over the batches of the share of conflicting pairs.
        perturbation: The perturbation of the gradients; None for natural gradients.
        batches: The number of batches.
    """

    kind: ClassVar[str] = "cosines"

    tasks: tuple[str, ...]
    matrix: Rows
    norms: tuple[float, ...]
    conflicts: float | None
    batch_matrix: Rows
    batch_conflicts: float | None
    perturbation: str | None
    batches: int

    @property
    def balance(self) -> float:
        """The ratio of the smallest to the largest norm, in [0, 1]."""
        largest = max(self.norms)
        return min(self.norms) / largest if largest > 0 else 1.0


def gradient_cosines(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    *,
    perturbation: Displacement | None = None,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
    sizes: Sizes | None = None,
) -> Cosines:
    r"""Computes the cosines of the task gradients with respect to the shared parameters.

    .. math::
        c_{ij} = \frac{\langle g_i, g_j \rangle}{\lVert g_i \rVert \lVert g_j \rVert}, \qquad
        g_i = \nabla_\theta l_i(\theta) \text{ or } \nabla_\theta l_i(\theta + \varepsilon_i,
        \varphi_i + \eta_i)

    The gradients are those of `samo.Engine`, in evaluation mode (see `hessian_spectrum`); ε_i and
    η_i are computed for each batch, as in training.

    Args:
        model: The model, which is unchanged afterwards.
        losses: Maps a batch and task names to the losses, means over the batch.
        batches: The batches, a re-iterable.
        tasks: The names of the K tasks.
        perturbation: The perturbation, for instance ``engine.perturbation``; None for natural
            gradients.
        shared: Shared parameters or modules, as for `samo.Engine`.
        own: Task-specific parameters or modules by task, as for `samo.Engine`.
        seed: The seed of the perturbation's random numbers.
        sizes: Returns the number of examples in a batch, see `hessian_spectrum`.

    Returns:
        The cosines.

    Raises:
        AnalysisError: If there is no data, the tasks share no parameter, or the perturbation is a
            `samo.Momentum`.
        NonFiniteError: If a loss or a gradient is not finite.

    Example:
        >>> import torch, samo.analysis
        >>> point = torch.nn.ParameterList([torch.ones(2)])
        >>> def losses(x, tasks):
        ...     return {"a": (point[0] @ x.T).mean(), "b": -point[0][0].square()}
        >>> found = samo.analysis.gradient_cosines(
        ...     point, losses, [torch.tensor([[3.0, 4.0]])], ["a", "b"]
        ... )
        >>> round(found.matrix[0][1], 4), found.conflicts, round(found.balance, 4)
        (-0.6, 1.0, 0.4)
    """
    with undisturbed(model) as isolated:
        data = Data(losses, batches, tasks, sizes)
        total: Matrix | None = None
        k = len(data.tasks)
        cosines, met = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k)
        shares_of_conflicts: list[float] = []
        for step, shares in steps(
            model, data, isolated, "upgrad", perturbation, shared=shared, own=own, seed=seed
        ):
            rows = step.gradients.rows
            assert rows is not None
            here = [data.tasks.index(task) for task in shares]
            gramian = rows.select(here).gramian()  # the rows of absent tasks are undefined
            pairs = torch.tensor(here)[:, None], torch.tensor(here)
            cosines[pairs] += cosine_matrix(gramian)
            met[pairs] += 1
            if (conflicts := _conflicts(gramian)) is not None:
                shares_of_conflicts.append(conflicts)
            total = rows.layout.matrix(k) if total is None else total
            for task, share in shares.items():
                total.rows[data.tasks.index(task)].add_(step.gradients.row(task).tensors, share)
    assert total is not None
    gramian = total.gramian()
    found = shares_of_conflicts
    return Cosines(
        tasks=data.tasks,
        matrix=_rows(cosine_matrix(gramian)),
        norms=tuple(gramian.diagonal().sqrt().tolist()),
        conflicts=_conflicts(gramian),
        batch_matrix=_rows(cosines / met.clamp(min=1)),
        batch_conflicts=sum(found) / len(found) if found else None,
        perturbation=None if perturbation is None else stable_repr(perturbation),
        batches=data.n_batches,
    )


def cosine_matrix(gramian: Tensor) -> Tensor:
    """Computes the cosines of vectors from their inner products; 0 for a zero vector."""
    norms = gramian.diagonal().sqrt()
    inverse = torch.as_tensor(ratio(1.0, norms))
    return inverse[:, None] * gramian * inverse


def _conflicts(gramian: Tensor) -> float | None:
    return StepResult({}, gramian=gramian).conflicts


def _rows(matrix: Tensor) -> Rows:
    return tuple(tuple(row) for row in matrix.tolist())
