"""A model of the traffic and the time of a step on several ranks.

``scaling.py`` compares it with the bytes passed to collective operations and the bytes sent through
the network interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samo import SPSA, Perturbation
from samo.distributed import Replicated

Kind = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast"]
Needs = Literal["nothing", "losses", "sharpness", "gramian", "gradients"]

# With ring algorithms, which are optimal, a rank sends this many times (N - 1)/N of the payload.
_ROUNDS: dict[Kind, int] = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1, "broadcast": 1}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that determine the cost of a step.

    Attributes:
        tasks: The number K of tasks.
        shared: The number m of shared parameters.
        own: The total number h of task-specific parameters, the same number for each task.
        tensors: The number of parameter tensors.
        element: The size b of a parameter, in bytes.
        buffers: The size of the model's buffers, in bytes.
    """

    tasks: int
    shared: int
    own: int = 0
    tensors: int = 0
    element: int = 4
    buffers: int = 0

    @property
    def gradient(self) -> int:
        """The size of one gradient with respect to the shared parameters, in bytes."""
        return self.shared * self.element

    @property
    def jacobian(self) -> int:
        """The size of all task gradients with respect to the shared parameters, in bytes."""
        return self.tasks * self.gradient

    @property
    def message(self) -> int:
        """The size of a message by which the ranks agree on losses and probes, in bytes."""
        return 8 * (2 * self.tasks + 5)


@dataclass(frozen=True)
class Transfer:
    """A collective operation that a step repeats.

    Attributes:
        what: Description of the data.
        kind: The collective operation; for a broadcast, the bytes sent by rank 0 count.
        payload: The size of the whole tensor that is summed, scattered, gathered or copied.
        count: The number of operations in a step.
    """

    what: str
    kind: Kind
    payload: int
    count: int

    def sent(self, ranks: int) -> float:
        r"""Returns the bytes that a rank sends: (N - 1)/N of the payload, twice for an all-reduce.

        Args:
            ranks: The number N of ranks.
        """
        return self.count * self.payload * _ROUNDS[self.kind] * (ranks - 1) / ranks


@dataclass(frozen=True)
class Cost:
    """The cost of a step for a rank, in addition to the evaluation of its own batch.

    Attributes:
        ranks: The number N of ranks.
        transfers: The collective operations.
        memory: The size of the task gradients that a rank keeps, in bytes.
    """

    ranks: int
    transfers: tuple[Transfer, ...]
    memory: int

    @property
    def calls(self) -> int:
        """The number of collective operations."""
        return sum(transfer.count for transfer in self.transfers)

    @property
    def payload(self) -> int:
        """The bytes passed to collective operations."""
        return sum(transfer.count * transfer.payload for transfer in self.transfers)

    @property
    def sent(self) -> float:
        """The bytes that a rank sends."""
        return sum(transfer.sent(self.ranks) for transfer in self.transfers)

    def seconds(self, bandwidth: float, latency: float = 0.0) -> float:
        """Returns the time of the transfers without overlap: calls · latency + sent / bandwidth.

        Args:
            bandwidth: The bandwidth of a rank's link, in bytes per second.
            latency: The latency of one collective operation, in seconds.
        """
        return self.calls * latency + self.sent / bandwidth


def cost(
    perturbation: Perturbation | None,
    needs: Needs,
    sizes: Sizes,
    *,
    ranks: int,
    decompose: bool = False,
    sync_perturbation: bool = True,
    divided_from: int = Replicated.divided_from,
) -> Cost:
    r"""Estimates the traffic of a step of a model that is replicated on every rank.

    With K tasks, m shared parameters of b bytes, h task-specific parameters and N ranks, a rank
    sends about, with :math:`f = (N-1)/N`:

    .. math::
        \text{ascent: } 2f\,b\,(m + h), \quad K \text{ times if it is exact}; \qquad
        \text{gradients: } f\,b\,(K + 1)\,m + 2f\,b\,h

    The latter holds for methods that need the Gramian (a reduce-scatter of each row and an
    all-gather of the result). It is :math:`2f\,b\,m` for methods that need at most the losses, and
    :math:`2f\,b\,K\,m` for methods that need the gradients themselves and for small models. The
    messages by which the ranks agree on losses and probes have :math:`8(2K + 5)` bytes each; their
    number matters, not their size.

    Args:
        perturbation: The perturbation; None for plain multi-task learning.
        needs: What the method needs (see ``samo list``).
        sizes: The sizes of the model.
        ranks: The number N of ranks.
        decompose: Whether the aggregation is decomposed.
        sync_perturbation: Whether all ranks perturb along the same gradient.
        divided_from: The minimum number of shared parameters for which the columns of the task
            gradients are divided among the ranks.

    Returns:
        The cost of a step after the first; in the first, the ranks also exchange their setup.
    """
    matrix = needs in ("gramian", "gradients")
    if ranks < 2:
        return Cost(1, (), sizes.jacobian if matrix else sizes.gradient)
    ascends = perturbation is not None and perturbation.rho > 0
    estimator = perturbation.estimator if perturbation is not None and ascends else None
    exact = estimator is not None and estimator.exact
    remembers = estimator is not None and estimator.remembers
    decomposed = decompose and matrix and ascends
    alpha = 1.0 if perturbation is None else perturbation.alpha
    natural = decomposed or (matrix and exact and alpha > 0 and sync_perturbation)
    kept = sizes.jacobian if remembers and not matrix else 0
    own_bytes = (sizes.own + sizes.tensors) * sizes.element + kept
    rest = Transfer("own gradients", "all_reduce", own_bytes, 1)
    found = [Transfer("buffers", "broadcast", sizes.buffers, 1)] if sizes.buffers else []
    messages = 2 + len(found)  # the natural losses, and the end
    if ascends:
        messages += 1 if estimator is None else sizes.tasks  # the perturbed losses
    if natural:
        found += [Transfer("natural gradients", "all_reduce", sizes.jacobian, 1), rest]
        messages += 1
    elif ascends and sync_perturbation:
        ascent = _ascent(sizes, exact=exact, alpha=alpha)
        found += ascent
        messages += sum(transfer.count for transfer in ascent if transfer.what != "own directions")
    if isinstance(estimator, SPSA) and sync_perturbation:
        messages += sizes.tasks * estimator.samples * (2 if estimator.antithetic else 1)
    if needs == "gramian" and sizes.shared >= divided_from and not decomposed and not remembers:
        gradients, memory = _divided(sizes, ranks)
        messages += sizes.tasks + 3
    else:
        whole = sizes.jacobian if matrix else sizes.gradient
        gradients = [Transfer("task gradients", "all_reduce", whole, 1)]
        memory = whole * (2 if decomposed else 1) + kept
        messages += 1
    found += [*gradients, rest, Transfer("messages", "all_reduce", sizes.message, messages)]
    return Cost(ranks, tuple(transfer for transfer in found if transfer.payload), memory)


def _ascent(sizes: Sizes, *, exact: bool, alpha: float) -> list[Transfer]:
    """Returns the transfers by which the ranks agree on the ascent directions."""
    own = sizes.own * sizes.element
    local = Transfer("local gradients", "all_reduce", sizes.gradient, sizes.tasks)
    if exact and alpha == 0:
        directions = Transfer("own directions", "all_reduce", own // sizes.tasks, sizes.tasks)
        return [local, directions]
    mean = Transfer("mean gradient", "all_reduce", sizes.gradient, 1)
    found = [mean, Transfer("own directions", "all_reduce", own, 1)]
    return [*found, local] if exact else found


def _divided(sizes: Sizes, ranks: int) -> tuple[list[Transfer], int]:
    """Returns transfers and memory if the columns of the task gradients are divided."""
    part = -(-sizes.shared // ranks) * sizes.element
    found = [
        Transfer("task gradients", "reduce_scatter", part * ranks, sizes.tasks),
        Transfer("update", "all_gather", part * ranks, 1),
    ]
    if sizes.tasks**2 > 2 * sizes.tasks + 1:  # more than fits into a message
        found.append(Transfer("Gramian", "all_reduce", 8 * sizes.tasks**2, 1))
    return found, sizes.tasks * part
