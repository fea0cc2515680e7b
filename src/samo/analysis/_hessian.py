"""The largest eigenvalues of the Hessian of a loss, and its trace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.attention import SDPBackend, sdpa_kernel

from samo.engine import Declared, Partition, declared_parameters
from samo.tensors import Layout, Vector

from .._errors import NonFiniteError
from ._data import Data, Losses, Part, Sizes
from ._errors import AnalysisError
from ._results import Result
from ._undisturbed import Alone, undisturbed

# Below this many Lanczos vectors ARPACK is unreliable (scipy's own default).
_FEWEST_LANCZOS_VECTORS = 20


@dataclass(frozen=True)
class Spectrum(Result):
    """The upper end of a Hessian's spectrum (SAMO, Table 1).

    Attributes:
        tasks: The tasks whose mean loss it is of.
        eigenvalues: The largest eigenvalues, in descending order.
        trace: The trace.
        trace_error: The standard error of the trace; 0 where it is exact.
        parameters: The number of parameters, which is the Hessian's dimension.
        batches: The number of batches that the loss is over.
    """

    kind: ClassVar[str] = "spectrum"

    tasks: tuple[str, ...]
    eigenvalues: tuple[float, ...]
    trace: float
    trace_error: float
    parameters: int
    batches: int

    @property
    def task(self) -> str | None:
        """The task; None where it is the mean of several."""
        return self.tasks[0] if len(self.tasks) == 1 else None

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue λ_max."""
        return self.eigenvalues[0]

    @property
    def lambda_ratio(self) -> float | None:
        """λ_max/λ_5, how far the first stands out of the bulk.

        None where there are fewer than five, or where the fifth is not positive.
        """
        if len(self.eigenvalues) < 5 or self.eigenvalues[4] <= 0:
            return None
        return self.eigenvalues[0] / self.eigenvalues[4]


def hessian_spectrum(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    *,
    parameters: Literal["all", "shared"] | Declared = "all",
    k: int = 5,
    probes: int = 20,
    seed: int = 0,
    sizes: Sizes | None = None,
) -> Spectrum:
    r"""Finds the largest eigenvalues of a loss's Hessian over a data set, and its trace.

    .. math::
        H = \nabla^2_\theta \, \frac{1}{K} \sum_i l_i(\theta), \qquad
        H v = \nabla_\theta \langle \nabla_\theta l, v \rangle, \qquad
        \operatorname{tr} H \approx \frac{1}{M} \sum_{m=1}^M z_m^\top H z_m

    The eigenvalues are Lanczos' (ARPACK, by ``scipy.sparse.linalg.eigsh``), from products with H
    alone: two backward passes a batch. The trace is Hutchinson's estimate, with z of random signs.
    Where there are no more parameters than Lanczos needs vectors, H is made whole and both are
    exact. Batches are evaluated one at a time and nothing of them is kept: memory does not grow
    with their number. Lanczos stops at residuals of √(machine epsilon) of the parameters' dtype,
    relative to the eigenvalue, whose own error is of the order of the square; for more digits give
    a model in float64.

    The model is held in evaluation mode, as PyHessian does (Yao et al. 2018, whose proxies of
    sharpness SAMO's Table 1 takes): normalisation uses the running statistics, nothing is dropped,
    and H is that of a function of the parameters alone, however the data is cut into batches. This
    does not make networks with batch normalisation comparable: it lets weights grow at the same
    function, and λ_max shrinks with their square. Foret et al. (2021) and SAMO (§4.1, A) therefore
    train networks without it where they compare spectra; do so as well.

    Args:
        model: The model. It is left as it was.
        losses: Maps a batch and names of tasks to their losses, means over the batch.
        batches: The batches, an iterable that can be gone through again and again.
        tasks: The tasks whose mean loss is looked at: all, or one.
        parameters: The parameters θ: all that are trainable, those that the tasks share (found from
            the autograd graph), or any parameters or modules. The others are held fixed.
        k: The number of eigenvalues; 5 for λ_max/λ_5.
        probes: The number M of random vectors for the trace, at least 2.
        seed: The seed of the random vectors; the global generators are never seeded.
        sizes: The number of a batch's examples (or a mapping of it by task), for the weights of the
            batches in the mean; the first dimension of the first tensor in it if left out.

    Returns:
        The spectrum.

    Raises:
        AnalysisError: If an argument is out of its range, there is no data, or Lanczos does not
            converge.
        NonFiniteError: If the Hessian is not finite.
        NotImplementedError: If an operation of the model has no second derivative.

    Example:
        >>> import torch, samo.analysis
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> def losses(x, tasks):  # the Hessian is the mean of x xᵀ
        ...     return {"a": 0.5 * model(x).square().mean()}
        >>> batches = [torch.eye(3) * torch.tensor([3.0, 2.0, 1.0])]
        >>> spectrum = samo.analysis.hessian_spectrum(model, losses, batches, ["a"], k=2)
        >>> [round(value, 4) for value in spectrum.eigenvalues], round(spectrum.trace, 4)
        ([3.0, 1.3333], 4.6667)
    """
    if not isinstance(k, int) or k < 1:
        raise AnalysisError(f"k must be an integer of at least 1; found {k!r}.")
    if not isinstance(probes, int) or probes < 2:
        raise AnalysisError(f"probes must be an integer of at least 2; found {probes!r}.")
    with undisturbed(model) as alone, torch.enable_grad():
        data = Data(losses, batches, tasks, sizes)
        hessian = _Hessian(_chosen(model, parameters, data, alone), data, alone)
        if k > hessian.dimension:
            raise AnalysisError(
                f"k must not exceed the number of parameters, {hessian.dimension}; found {k}."
            )
        vectors = max(2 * k + 1, _FEWEST_LANCZOS_VECTORS)
        if hessian.dimension <= vectors:
            eigenvalues, trace, error = _dense(hessian, k)
        else:
            generator = torch.Generator().manual_seed(seed)
            eigenvalues = _lanczos(hessian, k, vectors, generator)
            trace, error = _hutchinson(hessian, probes, generator)
    return Spectrum(data.tasks, eigenvalues, trace, error, hessian.dimension, data.n_batches)


class _Hessian:
    """The Hessian of the mean loss, as a map of vectors (float64, on the CPU, of parameters)."""

    def __init__(self, parameters: list[Parameter], data: Data, alone: Alone) -> None:
        self._parameters = parameters
        self._data = data
        self._alone = alone
        self._layout = Layout(parameters)
        self.dimension = sum(parameter.numel() for parameter in parameters)
        self.precision = max(torch.finfo(parameter.dtype).eps for parameter in parameters)

    def times(self, vector: Tensor) -> Tensor:
        direction, total = self._layout.over(vector), self._layout.zeros()
        for part in self._data:
            self._alone(partial(self._add, part, direction, total))
        product = torch.cat([flat.double().cpu() for flat in total.flats])
        if not product.isfinite().all():
            raise NonFiniteError(self._data.tasks, "product with the Hessian")
        return product

    def _add(self, part: Part, direction: Vector, total: Vector) -> None:
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            losses = part.losses()
        seeds = [
            torch.full_like(loss, part.shares[task] / len(self._data.tasks))
            for task, loss in losses.items()
        ]
        gradients = torch.autograd.grad(
            list(losses.values()), self._parameters, seeds, create_graph=True, allow_unused=True
        )
        # A loss may be linear in some parameters, or not depend on them.
        pairs = zip(gradients, direction.tensors, strict=True)
        curved = [(g, v) for g, v in pairs if g is not None and g.requires_grad]
        if curved:
            outer, inner = zip(*curved, strict=True)
            total.add_(torch.autograd.grad(outer, self._parameters, inner, allow_unused=True))


def _chosen(
    model: nn.Module, parameters: Literal["all", "shared"] | Declared, data: Data, alone: Alone
) -> list[Parameter]:
    """The trainable ones of the parameters that were asked for."""
    if isinstance(parameters, str):
        if parameters not in ("all", "shared"):
            raise AnalysisError(
                f'parameters must be "all", "shared", or parameters or modules; '
                f"found {parameters!r}."
            )
        if parameters == "shared":
            partition = Partition(model, data.tasks)
            learn(partition, data, alone)
            return list(partition.shared)
        parameters = model
    chosen = {id(p): p for p in declared_parameters(parameters) if p.requires_grad}
    if not chosen:
        raise AnalysisError("None of the parameters is trainable (requires_grad).")
    return list(chosen.values())


def learn(partition: Partition, data: Data, alone: Alone) -> None:
    """Lets a partition find out from the batches which parameters the tasks share.

    Args:
        partition: The partition.
        data: The batches; no more are evaluated than it takes.
        alone: Evaluates the model.
    """

    def look(part: Part) -> None:
        partition.update(part.losses())

    for part in data:
        alone(partial(look, part))
        if partition.knows(data.tasks):
            break


def _dense(hessian: _Hessian, k: int) -> tuple[tuple[float, ...], float, float]:
    columns = [hessian.times(unit) for unit in torch.eye(hessian.dimension, dtype=torch.float64)]
    whole = torch.stack(columns)
    values = torch.linalg.eigvalsh((whole + whole.T) / 2)
    return tuple(values.flip(0)[:k].tolist()), whole.trace().item(), 0.0


def _lanczos(
    hessian: _Hessian, k: int, vectors: int, generator: torch.Generator
) -> tuple[float, ...]:
    import numpy as np
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    def times(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return hessian.times(torch.tensor(vector.reshape(-1))).numpy()

    n = hessian.dimension
    operator = LinearOperator((n, n), matvec=times, dtype=np.dtype(np.float64))
    start = torch.randn(n, dtype=torch.float64, generator=generator).numpy()
    try:
        values = eigsh(
            operator,
            k=k,
            which="LA",
            v0=start,
            ncv=vectors,
            tol=math.sqrt(hessian.precision),
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        raise AnalysisError(
            f"Lanczos has found {len(error.eigenvalues)} of {k} eigenvalues only. Ask for fewer "
            f"(k=), or give the model in float64."
        ) from error
    return tuple(sorted(values.tolist(), reverse=True))


def _hutchinson(hessian: _Hessian, probes: int, generator: torch.Generator) -> tuple[float, float]:
    """The mean of the probes, and its standard error."""
    found = []
    for _ in range(probes):
        signs = torch.randint(2, (hessian.dimension,), generator=generator).double() * 2 - 1
        found.append(torch.dot(signs, hessian.times(signs)))
    values = torch.stack(found)
    return values.mean().item(), (values.std() / math.sqrt(probes)).item()
