"""The largest eigenvalues and the trace of the Hessian of a loss."""

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
from ._data import Data, Losses, Sizes, WeightedBatch
from ._errors import AnalysisError
from ._results import Result
from ._undisturbed import Isolated, undisturbed

# With fewer Lanczos vectors, ARPACK is unreliable (scipy's default).
_FEWEST_LANCZOS_VECTORS = 20


@dataclass(frozen=True)
class Spectrum(Result):
    """The upper end of a Hessian's spectrum (SAMO, Table 1).

    Attributes:
        tasks: The tasks of the mean loss.
        eigenvalues: The largest eigenvalues, in descending order.
        trace: The trace.
        trace_error: The standard error of the trace; 0 if it is exact.
        parameters: The number of parameters, which is the Hessian's dimension.
        batches: The number of batches of the loss.
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
        """The task; None for the mean loss of several tasks."""
        return self.tasks[0] if len(self.tasks) == 1 else None

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue λ_max."""
        return self.eigenvalues[0]

    @property
    def lambda_ratio(self) -> float | None:
        """λ_max/λ_5, the ratio of the first eigenvalue to the bulk.

        None if there are fewer than five eigenvalues, or the fifth is not positive.
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
    r"""Computes the largest eigenvalues and the trace of a loss's Hessian over a data set.

    .. math::
        H = \nabla^2_\theta \, \frac{1}{K} \sum_i l_i(\theta), \qquad
        H v = \nabla_\theta \langle \nabla_\theta l, v \rangle, \qquad
        \operatorname{tr} H \approx \frac{1}{M} \sum_{m=1}^M z_m^\top H z_m

    The eigenvalues are computed by the Lanczos method (ARPACK, ``scipy.sparse.linalg.eigsh``) from
    products with H, two backward passes per batch. The trace is Hutchinson's estimate with random
    signs z. If there are no more parameters than Lanczos vectors, H is computed explicitly and both
    are exact. Batches are evaluated one at a time, so the memory does not grow with their number.
    Lanczos stops at residuals of √(machine epsilon) of the parameters' dtype, relative to the
    eigenvalue; the error of the eigenvalue is of the order of the square. For more digits, give a
    model in float64.

    The model is in evaluation mode, as in PyHessian (Yao et al. 2018, whose proxies of sharpness
    SAMO's Table 1 uses): normalisation uses the running statistics, dropout is off, and H does not
    depend on how the data is divided into batches. This does not make networks with batch
    normalisation comparable: their weights can grow without changing the function, and λ_max
    decreases with the square of the weights. Foret et al. (2021) and SAMO (§4.1, A) therefore train
    networks without it to compare spectra.

    Args:
        model: The model, which is unchanged afterwards.
        losses: Maps a batch and task names to the losses, means over the batch.
        batches: The batches, a re-iterable.
        tasks: The tasks of the mean loss: all, or one.
        parameters: The parameters θ: all trainable ones, those that the tasks share (determined
            from the autograd graph), or any parameters or modules. The others are fixed.
        k: The number of eigenvalues; 5 for λ_max/λ_5.
        probes: The number M of random vectors for the trace, at least 2.
        seed: The seed of the random vectors; global generators are not seeded.
        sizes: Returns the number of examples in a batch (or a mapping of it by task), which is the
            weight of the batch in the mean. By default, the first dimension of its first tensor.

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
    with undisturbed(model) as isolated, torch.enable_grad():
        data = Data(losses, batches, tasks, sizes)
        hessian = _Hessian(_chosen(model, parameters, data, isolated), data, isolated)
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
    """The Hessian of the mean loss as an operator on float64 vectors on the CPU."""

    def __init__(self, parameters: list[Parameter], data: Data, isolated: Isolated) -> None:
        self._parameters = parameters
        self._data = data
        self._isolated = isolated
        self._layout = Layout(parameters)
        self.dimension = sum(parameter.numel() for parameter in parameters)
        self.precision = max(torch.finfo(parameter.dtype).eps for parameter in parameters)

    def times(self, vector: Tensor) -> Tensor:
        direction, total = self._layout.over(vector), self._layout.zeros()
        for part in self._data:
            self._isolated(partial(self._add, part, direction, total))
        product = torch.cat([flat.double().cpu() for flat in total.flats])
        if not product.isfinite().all():
            raise NonFiniteError(self._data.tasks, "product with the Hessian")
        return product

    def _add(self, part: WeightedBatch, direction: Vector, total: Vector) -> None:
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
        # A loss may be linear in some parameters, or independent of them.
        pairs = zip(gradients, direction.tensors, strict=True)
        curved = [(g, v) for g, v in pairs if g is not None and g.requires_grad]
        if curved:
            outer, inner = zip(*curved, strict=True)
            total.add_(torch.autograd.grad(outer, self._parameters, inner, allow_unused=True))


def _chosen(
    model: nn.Module,
    parameters: Literal["all", "shared"] | Declared,
    data: Data,
    isolated: Isolated,
) -> list[Parameter]:
    """Returns the requested parameters that are trainable."""
    if isinstance(parameters, str):
        if parameters not in ("all", "shared"):
            raise AnalysisError(
                f'parameters must be "all", "shared", or parameters or modules; '
                f"found {parameters!r}."
            )
        if parameters == "shared":
            partition = Partition(model, data.tasks)
            learn_partition(partition, data, isolated)
            return list(partition.shared)
        parameters = model
    chosen = {id(p): p for p in declared_parameters(parameters) if p.requires_grad}
    if not chosen:
        raise AnalysisError("None of the parameters is trainable (requires_grad).")
    return list(chosen.values())


def learn_partition(partition: Partition, data: Data, isolated: Isolated) -> None:
    """Evaluates batches until the partition knows which parameters the tasks share."""

    def look(part: WeightedBatch) -> None:
        partition.update(part.losses())

    for part in data:
        isolated(partial(look, part))
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
            f"Lanczos has found only {len(error.eigenvalues)} of {k} eigenvalues. Request fewer "
            f"(k=), or give the model in float64."
        ) from error
    return tuple(sorted(values.tolist(), reverse=True))


def _hutchinson(hessian: _Hessian, probes: int, generator: torch.Generator) -> tuple[float, float]:
    """Returns the mean over the probes, and its standard error."""
    found = []
    for _ in range(probes):
        signs = torch.randint(2, (hessian.dimension,), generator=generator).double() * 2 - 1
        found.append(torch.dot(signs, hessian.times(signs)))
    values = torch.stack(found)
    return values.mean().item(), (values.std() / math.sqrt(probes)).item()
