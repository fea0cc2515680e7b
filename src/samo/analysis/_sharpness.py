"""The increase of the losses along a perturbation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from samo.engine import Declared, stable_repr
from samo.perturbations import Perturbation

from ._data import Data, Losses, Sizes
from ._errors import AnalysisError
from ._results import Result
from ._steps import steps
from ._undisturbed import undisturbed


@dataclass(frozen=True)
class Sharpness(Result):
    """The natural and the perturbed losses of the tasks.

    Attributes:
        rho: The radius ρ.
        perturbation: The perturbation with all its arguments.
        tasks: The tasks.
        natural: The losses l_i(θ), by task.
        perturbed: The losses l_i(θ + ε_i, φ_i + η_i), by task.
        batches: The number of batches.
    """

    kind: ClassVar[str] = "sharpness"

    rho: float
    perturbation: str
    tasks: tuple[str, ...]
    natural: tuple[float, ...]
    perturbed: tuple[float, ...]
    batches: int

    @property
    def sharpness(self) -> tuple[float, ...]:
        """Perturbed minus natural loss, by task."""
        return tuple(p - n for p, n in zip(self.perturbed, self.natural, strict=True))


def sharpness(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    perturbation: Perturbation,
    *,
    shared: Declared | None = None,
    own: Mapping[str, Declared] | None = None,
    seed: int = 0,
    sizes: Sizes | None = None,
) -> Sharpness:
    r"""Computes the increase of each task's loss along a perturbation.

    .. math::
        s_i = \sum_b \frac{n_{b,i}}{N_i} \bigl[ l_{b,i}(\theta + \varepsilon_{b,i}, \varphi_i +
        \eta_{b,i}) - l_{b,i}(\theta, \varphi_i) \bigr]

    ε and η are computed as in `samo.Engine`, for each batch ("m-sharpness", Foret et al. 2021, with
    m the batch size), with the model in evaluation mode (see `hessian_spectrum`). With
    ``alpha=0`` and `samo.ExactGradient`, this is the sharpness of each task, to first order the
    maximum increase of its loss; with ``alpha=1``, it is the increase along the mean gradient.

    Args:
        model: The model, which is unchanged afterwards.
        losses: Maps a batch and task names to the losses, means over the batch.
        batches: The batches, a re-iterable.
        tasks: The names of the tasks.
        perturbation: The perturbation.
        shared: Shared parameters or modules, as for `samo.Engine`.
        own: Task-specific parameters or modules by task, as for `samo.Engine`.
        seed: The seed of the perturbation's random numbers.
        sizes: Returns the number of examples in a batch, see `hessian_spectrum`.

    Returns:
        The natural and the perturbed losses.

    Raises:
        AnalysisError: If there is no data, or the radius is zero.
        NonFiniteError: If a loss or a gradient is not finite.

    Example:
        >>> import torch, samo, samo.analysis
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> local = samo.Perturbation(0.1, alpha=0, local=samo.ExactGradient())
        >>> def losses(x, tasks):  # it increases by ρ‖x‖ everywhere
        ...     return {"a": model(x).mean()}
        >>> batches = [torch.tensor([[3.0, 4.0]])]
        >>> found = samo.analysis.sharpness(model, losses, batches, ["a"], local)
        >>> [round(value, 4) for value in found.sharpness]
        [0.5]
    """
    if not isinstance(perturbation, Perturbation) or not perturbation.moves:
        raise AnalysisError(
            f"perturbation must be a samo.Perturbation with rho > 0 (or rho_own > 0); "
            f"found {perturbation!r}."
        )
    with undisturbed(model) as isolated:
        data = Data(losses, batches, tasks, sizes)
        natural, perturbed = dict.fromkeys(data.tasks, 0.0), dict.fromkeys(data.tasks, 0.0)
        for step, shares in steps(
            model, data, isolated, "ls", perturbation, shared=shared, own=own, seed=seed
        ):
            before, after = step.losses, step.perturbed
            for task, share in shares.items():
                natural[task] += share * before[task].item()
                perturbed[task] += share * after[task].item()
    return Sharpness(
        rho=float(perturbation.rho),
        perturbation=stable_repr(perturbation),
        tasks=data.tasks,
        natural=tuple(natural.values()),
        perturbed=tuple(perturbed.values()),
        batches=data.n_batches,
    )
