"""What a step needs to know of an aggregation method: when it can tell the tasks' weights.

TorchJD has aggregators, weightings and scalarizers. To the step they differ in one thing, what must
be known before the tasks can be weighed: the losses alone (`WeightsOfLosses`), nothing
(`WeightsOfCount`), the Gramian of the task gradients (`WeightsOfGramian`), or the whole matrix
(`WholeMatrix`). `combiner` finds out which, by type, and checks that the method fits. What else it
wants, it says by the capabilities `SeesLosses` and `ScaleFree`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, get_args

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
from torchjd.linalg import Matrix
from torchjd.scalarization import Scalarizer

from ._scale_free import ScaleFree
from ._sees_losses import SeesLosses
from ._state import capture, restore

Method = Aggregator | Weighting[Any] | Scalarizer

# Matrix weightings that look at the number of rows only.
_BY_COUNT = (SumWeighting, MeanWeighting, ConstantWeighting, RandomWeighting)
# Matrix weightings whose matrix is K x K: J_1 J_2^T of two batches, for which one batch's Gramian
# stands.
_BY_CROSS_GRAMIAN = (SDMGradWeighting, MoDoWeighting)


class Combiner(ABC):
    """How one method makes one gradient of K.

    A method whose tensors are laid out for all K tasks, or that keeps state, is *sized*: where a
    task is absent, it is shown a stand-in: its last loss; in the Gramian, a gradient of the others'
    mean size that is orthogonal to them; in the matrix, a zero gradient. Others see the tasks that
    are present only.

    Args:
        method: The TorchJD object that is called.
        n_tasks: The number of tasks K.
        whole: The TorchJD object that it is a part of.

    Attributes:
        last: The last losses that a sized method, or any with all tasks present, was told.

    Raises:
        ValueError: If the method does not take K tasks.
    """

    def __init__(self, method: Method, n_tasks: int, whole: Method | None = None) -> None:
        self.method = method
        self.n_tasks = n_tasks
        tensors = _tensors(method)
        per_task = any(n_tasks in t.shape for t in tensors)
        self.sized = per_task or any(isinstance(m, Stateful) for m in method.modules())
        self.device = tensors[0].device if tensors else None
        self.dtype = torch.float64
        self.last: Tensor | None = None
        parts = (method if whole is None else whole).modules()
        self._seeing = next((part for part in parts if isinstance(part, SeesLosses)), None)
        self._check()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the method learns."""
        return [p for p in self.method.parameters() if p.requires_grad]

    @property
    def sees_losses(self) -> bool:
        """Whether the method, one of the gradients, is to be told the losses."""
        return self._seeing is not None

    def bookmark(self) -> Callable[[], None]:
        """A function that brings the method back to its present state."""
        state, last = capture(self.method), self.last

        def bring_back() -> None:
            restore(self.method, state)
            self.last = last

        return bring_back

    def tell(
        self, losses: Tensor, present: Sequence[int]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Tells a method that sees the losses (`SeesLosses`) what they are.

        Args:
            losses: The natural losses of the present tasks, of shape ``[len(present)]``.
            present: Which of the K tasks they are.

        Returns:
            The factors of the gradients of the tasks' own parameters (None for ones), and the
            gradients of the method's parameters.
        """
        if self._seeing is None:
            return None, []
        return self._differentiated(self._seeing.see_losses, losses, present)

    def filled(self, losses: Tensor, present: Sequence[int]) -> Tensor:
        """The losses as the method wants them: where it is sized, with absent tasks' last ones."""
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
        """The derivatives of a function of the losses and of the method's parameters."""
        losses = losses.detach().to(self.device or losses.device, self.dtype)
        values = self.filled(losses, present).requires_grad_()
        with torch.enable_grad():
            total = function(values)
        if total is None:
            return None, []
        gradients: list[Tensor | None]
        gradients = [*torch.autograd.grad(total, [values, *self.parameters], allow_unused=True)]
        slopes = gradients.pop(0)
        if slopes is None:  # it does not look at the losses at all
            slopes = torch.zeros_like(values)
        if len(slopes) > len(present):
            here = _index(present, slopes.device)
            for gradient in gradients:
                if gradient is not None and gradient.shape[:1] == (self.n_tasks,):
                    gradient.copy_(torch.zeros_like(gradient).index_copy(0, here, gradient[here]))
            slopes = slopes[here]
        return slopes, gradients

    @abstractmethod
    def probe(self, method: Any, n_tasks: int) -> object:
        """Calls a method on some input for that many tasks."""

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


class WeightsFirst(Combiner):
    """A method whose weights are known before the task gradients are."""

    @abstractmethod
    def weights(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Weighs the tasks.

        Args:
            losses: The natural losses of the present tasks, of shape ``[len(present)]``.
            present: Which of the K tasks they are.

        Returns:
            The weights of the tasks that are present, and the gradients of the method's parameters.
        """


class WeightsOfLosses(WeightsFirst):
    """A scalarizer S: the weights are ∂S/∂l at the natural losses."""

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.ones(n_tasks, dtype=self.dtype, device=self.device))

    def weights(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Differentiates S."""
        weights, gradients = self._differentiated(self.method, losses, present)
        assert weights is not None
        return weights, gradients


class WeightsOfCount(WeightsFirst):
    """A weighting that needs to know nothing but how many tasks there are."""

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.empty(n_tasks, 0, dtype=self.dtype, device=self.device))

    def weights(self, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, list[Tensor | None]]:
        """Shows the weighting a matrix without columns."""
        rows, device = self.n_tasks if self.sized else len(present), self.device or losses.device
        weights = self.method(torch.empty(rows, 0, dtype=self.dtype, device=device))
        return (weights[_index(present, device)] if self.sized else weights), []


class WeightsOfGramian(Combiner):
    """A weighting that needs the Gramian of the task gradients."""

    def __init__(self, method: Method, n_tasks: int, whole: Method | None = None) -> None:
        super().__init__(method, n_tasks, whole)
        self._scale_free = isinstance(_innermost(method), ScaleFree)

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.eye(n_tasks, dtype=self.dtype))

    def weights(self, gramian: Tensor, present: Sequence[int]) -> Tensor:
        """Weighs the tasks.

        Args:
            gramian: The inner products of the present tasks' gradients, of shape
                ``[len(present), len(present)]``, in float64 on the CPU.
            present: Which of the K tasks they are.

        Returns:
            The weights of the present tasks.
        """
        index = _index(present, gramian.device)
        if self.sized and len(present) < self.n_tasks:
            # A zero gradient would do harm: the shortest vector in its hull is that one alone.
            full = gramian.diagonal().mean() * torch.eye(self.n_tasks, dtype=gramian.dtype)
            full[index[:, None], index] = gramian
            gramian = full
        if self._scale_free:
            gramian = gramian / _power_near(gramian.diagonal().mean().item())
        weights: Tensor = self.method(gramian.to(self.dtype))
        return weights[index] if len(weights) > len(present) else weights


class WholeMatrix(Combiner):
    """An aggregator that needs the task gradients themselves."""

    def probe(self, method: Any, n_tasks: int) -> object:
        return method(torch.eye(n_tasks, dtype=torch.float32, device=self.device))

    def combine(self, matrix: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Makes one gradient of the tasks'.

        Args:
            matrix: The gradients of the present tasks, ``[len(present), m]``.
            present: Which of the K tasks they are.

        Returns:
            The aggregate of the rows, ``[m]``, and the weights where the method has some.
        """
        index = _index(present, matrix.device)
        if self.sized and len(present) < self.n_tasks:
            matrix = matrix.new_zeros(self.n_tasks, matrix.shape[1]).index_copy(0, index, matrix)
        if not isinstance(self.method, WeightedAggregator):
            aggregate: Tensor = self.method(matrix)
            return aggregate, None
        weights = self.method.weighting(matrix)
        return weights @ matrix, weights[index] if len(weights) > len(present) else weights


def combiner(method: object, n_tasks: int) -> Combiner:
    """The combiner of a TorchJD object.

    Args:
        method: An aggregator, a weighting of the Gramian, or a scalarizer.
        n_tasks: The number of tasks.

    Returns:
        The one that asks for the least.

    Raises:
        TypeError: If it is none of the three.
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
    """What a weighting that smooths another's weights smooths."""
    while isinstance(weighting, CRMOGMWeighting):
        weighting = weighting.weighting
    return weighting


def _power_near(number: float) -> float:
    """A power of two near a number: dividing by it is exact. 1 for zero."""
    return math.ldexp(1.0, math.frexp(number)[1]) if number else 1.0


def _takes_matrix(weighting: type) -> bool:
    """Whether a weighting is declared as ``Weighting[Matrix]``, not ``Weighting[PSDMatrix]``."""
    for base in weighting.__mro__:
        for generic in base.__dict__.get("__orig_bases__", ()):
            if Matrix in get_args(generic):
                return True
    return False


def _tensors(method: nn.Module) -> list[Tensor]:
    """The tensors that a method holds: parameters, buffers and plain attributes."""
    held = [*method.parameters(), *method.buffers()]
    for module in method.modules():
        held += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return held


def _index(present: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(present), device=device)
