"""Calls of aggregation methods in a step, by what they need to weigh the tasks.

TorchJD has aggregators, weightings and scalarizers. For a step they differ in what they need: the
losses alone (`WeightsOfLosses`), nothing (`WeightsOfCount`), the Gramian of the task gradients
(`WeightsOfGramian`), or the whole matrix (`WholeMatrix`). `combiner` determines which, by type, and
checks that the method fits. Methods declare more by inheriting from `SeesLosses`, `SeesSharpness`
and `ScaleFree`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.aggregation import (
    Aggregator,
    ConstantWeighting,
    CRMOGMWeighting,
    GramianWeightedAggregator,
    MeanWeighting,
    MoDoWeighting,
    RandomWeighting,
    SDMGradWeighting,
    SumWeighting,
    WeightedAggregator,
    Weighting,
)
from torchjd.linalg import Matrix as JacobianMatrix
from torchjd.scalarization import Mean, Scalarizer, Sum

from samo.tensors import Matrix, Vector

from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses
from ._sees_sharpness import SeesSharpness
from ._state import capture, restore

TorchJDObject = Aggregator | Weighting[Any] | Scalarizer

# Matrix weightings that depend on the number of rows only.
_BY_COUNT = (SumWeighting, MeanWeighting, ConstantWeighting, RandomWeighting)
# Scalarizers whose derivatives do not depend on the losses.
_LINEAR = (Sum, Mean)
# Matrix weightings whose matrix is K x K: J_1 J_2^T of two batches, replaced by the Gramian of one.
_BY_CROSS_GRAMIAN = (SDMGradWeighting, MoDoWeighting)


class Combiner(ABC):
    """How one method combines K task gradients into one.

    A method that has tensors with an entry for each of the K tasks, or state, is *sized*. For an
    absent task it receives a replacement: the task's last loss; in the Gramian, a gradient of the
    others' mean norm that is orthogonal to them; in the matrix, a zero gradient. Other methods
    receive the present tasks only.

    Args:
        method: The TorchJD object that is called.
        n_tasks: The number of tasks K.
        whole: The TorchJD object that contains it.

    Attributes:
        weighs_first: Whether the weights are known before the task gradients: `weigh` returns them.
        weighs_own: Whether the weights apply to the tasks' own parameters as well.
        gramian_only: Whether only inner products and weighted sums of rows are computed.
        whole_rows: Whether `combine` needs whole task gradients, not shards of them.
        sees_losses: Whether the method receives the losses in addition to gradients (`tell`).
        sees_sharpness: Whether the method learns from the rise of the losses (`learn`).
        last: The last losses of all K tasks that the method received.

    Raises:
        ValueError: If the method does not accept K tasks.
    """

    weighs_first: ClassVar[bool] = False
    weighs_own: ClassVar[bool] = False
    gramian_only: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = False

    def __init__(
        self, method: TorchJDObject, n_tasks: int, whole: TorchJDObject | None = None
    ) -> None:
        self.method = method
        self.n_tasks = n_tasks
        tensors = _tensors(method)
        per_task = any(n_tasks in t.shape for t in tensors)
        self.sized = per_task or any(isinstance(m, Stateful) for m in method.modules())
        self.device = tensors[0].device if tensors else None
        self.dtype = torch.float64
        self.last: Tensor | None = None
        self._whole = method if whole is None else whole
        parts = list(self._whole.modules())
        self._seeing = next((part for part in parts if isinstance(part, SeesLosses)), None)
        self.sees_losses = self._seeing is not None
        self._learning = next((part for part in parts if isinstance(part, SeesSharpness)), None)
        self.sees_sharpness = self._learning is not None
        self._check()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the method."""
        return [p for p in self.method.parameters() if p.requires_grad]

    def bookmark(self) -> Callable[[], None]:
        """Returns a function that restores the current state of the method."""
        state, last = capture(self._whole), self.last

        def undo() -> None:
            restore(self._whole, state)
            self.last = last

        return undo

    def tell(
        self, losses: Tensor, present: Sequence[int]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Passes the losses to a method that needs them (`SeesLosses`).

        Args:
            losses: The natural losses of the present tasks, of shape ``[len(present)]``.
            present: The indices of the present tasks.

        Returns:
            The factors of the gradients of the tasks' own parameters (None for ones), and the
            gradients of the method's parameters.
        """
        if self._seeing is None:
            return None, []
        return self._differentiated(self._seeing.see_losses, losses, present)

    @property
    def ascent_weights(self) -> Tensor | None:
        """The weights of all K tasks in the ascent direction g_0; None for equal ones."""
        return None if self._learning is None else self._learning.weights

    def learn(
        self,
        losses: Mapping[str, Tensor],
        perturbed: Mapping[str, Tensor],
        present: Sequence[int],
    ) -> None:
        """Passes the rises of the losses to a method that learns from them (`SeesSharpness`).

        Args:
            losses: The natural losses of the present tasks.
            perturbed: Their perturbed losses; empty if there was no perturbation.
            present: The indices of the present tasks.
        """
        if self._learning is None or not perturbed:
            return
        device = self._learning.weights.device
        before, after = (
            torch.stack([loss.detach().to(device, torch.float64) for loss in its.values()])
            for its in (losses, perturbed)
        )
        self._learning.see_sharpness(after - before, _index(present, device))

    def filled(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        """Returns the losses; for a sized method, absent tasks have their last losses."""
        if not self.sized or len(present) == self.n_tasks:
            full = losses
        else:
            known = losses.mean().expand(self.n_tasks) if self.last is None else self.last
            full = known.to(losses).clone().index_put((_index(present, losses.device),), losses)
        if len(full) == self.n_tasks:
            self.last = full.detach()
        return full

    def _differentiated(
        self,
        function: Callable[[Tensor], Tensor | None],
        losses: Tensor,
        present: Sequence[int],
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Differentiates a function of the losses and of the method's parameters."""
        losses = losses.detach().to(self.device or losses.device, self.dtype)
        values = self.filled(losses, present).requires_grad_()
        with torch.enable_grad():
            total = function(values)
        if total is None:
            return None, []
        gradients: list[Tensor | None]
        gradients = [*torch.autograd.grad(total, [values, *self.parameters], allow_unused=True)]
        slopes = gradients.pop(0)
        if slopes is None:  # the function does not depend on the losses
            slopes = torch.zeros_like(values)
        if len(slopes) > len(present):
            here = _index(present, slopes.device)
            for gradient in gradients:
                if gradient is not None and gradient.shape[:1] == (self.n_tasks,):
                    gradient.copy_(torch.zeros_like(gradient).index_copy(0, here, gradient[here]))
            slopes = slopes[here]
        return slopes, gradients

    def constant_weights(self, present: int, device: torch.device) -> Tensor | None:  # noqa: ARG002
        """Returns the weights of ``present`` tasks if nothing else determines them, else None."""
        return None

    def weigh(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Weighs the tasks before their gradients are known (if `weighs_first`).

        Args:
            losses: The natural losses of the present tasks, of shape ``[len(present)]``.
            present: The indices of the present tasks.

        Returns:
            The weights of the present tasks, and the gradients of the method's parameters.

        Raises:
            NotImplementedError: If the method needs the gradients.
        """
        raise NotImplementedError

    def combine(
        self, rows: Matrix, gramian: Tensor, present: Sequence[int]
    ) -> tuple[Vector, Tensor | None]:
        """Combines the task gradients (unless `weighs_first`).

        Args:
            rows: The gradients of the present tasks.
            gramian: Their inner products, of shape ``[len(present), len(present)]``, in float64 on
                the CPU.
            present: The indices of the present tasks.

        Returns:
            The combined gradient, and the weights of the present tasks if the method has weights.

        Raises:
            NotImplementedError: If the weights are known before (`weigh`).
        """
        raise NotImplementedError

    @abstractmethod
    def probe(self, method: Any, n_tasks: int) -> object:
        """Calls a method on valid input for this number of tasks."""

    def _check(self) -> None:
        cause: Exception | None = None
        for self.dtype in (torch.float64, torch.float32):
            try:
                method, seeing = copy.deepcopy((self.method, self._seeing))
                with torch.random.fork_rng():
                    if seeing is not None:
                        seeing.see_losses(
                            torch.ones(self.n_tasks, dtype=self.dtype, device=self.device)
                        )
                    self.probe(method, self.n_tasks)
            except (ValueError, RuntimeError, IndexError) as error:
                cause = cause or error
            else:
                return
        raise ValueError(
            f"aggregator={self.method!r} does not fit {self.n_tasks} tasks: {cause}"
        ) from cause


class WeightsOfLosses(Combiner):
    """A scalarizer S: the weights are ∂S/∂l at the natural losses."""

    weighs_first = True
    weighs_own = True

    def __init__(
        self, method: TorchJDObject, n_tasks: int, whole: TorchJDObject | None = None
    ) -> None:
        super().__init__(method, n_tasks, whole)
        self._slopes: dict[tuple[int, torch.device], Tensor] = {}  # of a sum or a mean

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.ones(n_tasks, dtype=self.dtype, device=self.device))

    def weigh(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Differentiates S."""
        weights, gradients = self._differentiated(self.method, losses, present)
        assert weights is not None
        return weights, gradients

    def constant_weights(self, present: int, device: torch.device) -> Tensor | None:
        """Returns the derivatives of a sum or a mean, computed once."""
        if type(self.method) not in _LINEAR:
            return None
        key = (present, device)
        if key not in self._slopes:
            values = torch.ones(present, dtype=self.dtype, device=device, requires_grad=True)
            with torch.enable_grad():
                (self._slopes[key],) = torch.autograd.grad([self.method(values)], [values])
        return self._slopes[key].clone()


class WeightsOfCount(Combiner):
    """A weighting that depends on the number of tasks only."""

    weighs_first = True

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.empty(n_tasks, 0, dtype=self.dtype, device=self.device))

    def weigh(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Calls the weighting on a matrix without columns."""
        rows, device = self.n_tasks if self.sized else len(present), self.device or losses.device
        weights = self.method(torch.empty(rows, 0, dtype=self.dtype, device=device))
        return (weights[_index(present, device)] if self.sized else weights), []


class WeightsOfGramian(Combiner):
    """A weighting that needs the Gramian of the task gradients.

    Attributes:
        scale_free: Whether the weights do not depend on the scale of the gradients (`ScaleFree`).
    """

    gramian_only = True

    def __init__(
        self, method: TorchJDObject, n_tasks: int, whole: TorchJDObject | None = None
    ) -> None:
        super().__init__(method, n_tasks, whole)
        self.scale_free = isinstance(_innermost(method), ScaleFree)

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.eye(n_tasks, dtype=self.dtype))

    def combine(
        self, rows: Matrix, gramian: Tensor, present: Sequence[int]
    ) -> tuple[Vector, Tensor | None]:
        """Returns the weighted sum of the rows."""
        weights = self.weights(gramian, present)
        return rows.combine(weights), weights

    def weights(self, gramian: Tensor, present: Sequence[int]) -> Tensor:
        """Returns the weights of the present tasks, given the Gramian of their gradients."""
        index = _index(present, gramian.device)
        if self.sized and len(present) < self.n_tasks:
            # Not a zero gradient, which alone would be the shortest vector in the convex hull.
            full = gramian.diagonal().mean() * torch.eye(self.n_tasks, dtype=gramian.dtype)
            full[index[:, None], index] = gramian
            gramian = full
        if self.scale_free:
            gramian = gramian / _power_near(gramian.diagonal().mean().item())
        weights: Tensor = self.method(gramian.to(self.dtype))
        return weights[index] if len(weights) > len(present) else weights


class WholeMatrix(Combiner):
    """An aggregator that needs the task gradients themselves."""

    whole_rows = True

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.eye(n_tasks, dtype=torch.float32, device=self.device))

    def combine(
        self,
        rows: Matrix,
        gramian: Tensor,  # noqa: ARG002
        present: Sequence[int],
    ) -> tuple[Vector, Tensor | None]:
        """Calls the aggregator on the matrix."""
        matrix = rows.whole()
        index = _index(present, matrix.device)
        if self.sized and len(present) < self.n_tasks:
            matrix = matrix.new_zeros(self.n_tasks, matrix.shape[1]).index_copy(0, index, matrix)
        if not isinstance(self.method, WeightedAggregator):
            aggregate: Tensor = self.method(matrix)
            return rows.layout.over(aggregate), None
        weights = self.method.weighting(matrix)
        combined = rows.layout.over(weights @ matrix)
        return combined, weights[index] if len(weights) > len(present) else weights


def combiner(method: object, n_tasks: int) -> Combiner:
    """Returns the combiner of a TorchJD object: the one that needs the least.

    Args:
        method: An aggregator, a weighting of the Gramian, or a scalarizer.
        n_tasks: The number of tasks.

    Returns:
        The combiner.

    Raises:
        TypeError: If the object is none of the three.
    """
    weighting: object = method
    if isinstance(method, WeightedAggregator):
        gramian = isinstance(method, GramianWeightedAggregator)
        weighting = method.gramian_weighting if gramian else method.weighting
    if isinstance(method, Scalarizer):
        return WeightsOfLosses(method, n_tasks)
    innermost = _innermost(weighting)
    if isinstance(weighting, Weighting) and isinstance(innermost, _BY_COUNT):
        return WeightsOfCount(weighting, n_tasks)
    if isinstance(method, GramianWeightedAggregator) or isinstance(innermost, _BY_CROSS_GRAMIAN):
        return WeightsOfGramian(weighting, n_tasks, method)  # type: ignore[arg-type]
    if isinstance(method, Weighting):
        if _takes_matrix(type(innermost)):
            return WholeMatrix(WeightedAggregator(method), n_tasks)
        return WeightsOfGramian(method, n_tasks)
    if isinstance(method, Aggregator):
        return WholeMatrix(method, n_tasks)
    raise TypeError(
        f"aggregator must be a method's name (see samo.aggregation.available()) or a TorchJD "
        f"Aggregator, Weighting or Scalarizer; found {type(method).__name__}."
    )


def _innermost(weighting: object) -> object:
    """Returns the weighting inside weightings that smooth the weights of another."""
    while isinstance(weighting, CRMOGMWeighting):
        weighting = weighting.weighting
    return weighting


def _power_near(number: float) -> float:
    """Returns a power of two near a number, since division by it is exact; 1 for zero."""
    return math.ldexp(1.0, math.frexp(number)[1]) if number else 1.0


def _takes_matrix(weighting: type) -> bool:
    """Whether a weighting is declared as ``Weighting[Matrix]``, not ``Weighting[PSDMatrix]``."""
    for base in weighting.__mro__:
        for generic in base.__dict__.get("__orig_bases__", ()):
            if JacobianMatrix in get_args(generic):
                return True
    return False


def _tensors(method: nn.Module) -> list[Tensor]:
    """Returns the tensors of a method: parameters, buffers and plain attributes."""
    held = [*method.parameters(), *method.buffers()]
    for module in method.modules():
        held += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return held


def _index(present: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(present), device=device)
