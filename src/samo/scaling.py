"""What a step sends between ranks, and how long that takes: a model to plan with.

It is held against the bytes that are counted at the collective operations, and against the bytes
that pass the network interface, in ``benchmarks/scaling.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samo.distributed import Replicated
from samo.perturbations import SPSA, Perturbation

Kind = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast"]

# Of its payload, a rank sends so many times (N - 1)/N, in the best algorithms (rings).
_ROUNDS: dict[Kind, int] = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1, "broadcast": 1}


@dataclass(frozen=True)
class Transfer:
    """Some collective operations that are alike.

    Attributes:
        what: What is sent.
        kind: The collective operation; of a broadcast, what rank 0 sends.
        payload: The bytes of the whole tensor: summed, scattered, gathered or copied.
        count: How often a step.
    """

    what: str
    kind: Kind
    payload: int
    count: int

    def sent(self, ranks: int) -> float:
        r"""The bytes that a rank sends: :math:`\frac{N-1}{N}` of the payload, twice to all-reduce.

        Args:
            ranks: N.

        Returns:
            The bytes.
        """
        return self.count * self.payload * _ROUNDS[self.kind] * (ranks - 1) / ranks


@dataclass(frozen=True)
class Cost:
    """What a step costs a rank, besides evaluating its own batch.

    Attributes:
        ranks: The number N of ranks.
        transfers: What is sent.
        memory: The bytes of the task gradients that a rank keeps.
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
        """The bytes of the tensors that are given to collective operations."""
        return sum(transfer.count * transfer.payload for transfer in self.transfers)

    @property
    def sent(self) -> float:
        """The bytes that a rank sends."""
        return sum(transfer.sent(self.ranks) for transfer in self.transfers)

    def seconds(self, bandwidth: float, latency: float = 0.0) -> float:
        r"""The time that it takes, where nothing overlaps.

        .. math:: t = \text{calls} \cdot \text{latency} + \text{sent} / \text{bandwidth}

        Args:
            bandwidth: Of a rank's link, in bytes a second.
            latency: Of one collective operation, in seconds.

        Returns:
            Seconds.
        """
        return self.calls * latency + self.sent / bandwidth


def cost(
    perturbation: Perturbation | None,
    needs: Literal["nothing", "losses", "gramian", "gradients"],
    *,
    tasks: int,
    shared: int,
    ranks: int,
    own: int = 0,
    tensors: int = 0,
    element: int = 4,
    decompose: bool = False,
    sync_perturbation: bool = True,
    buffers: int = 0,
) -> Cost:
    r"""The cost of a step of a model that every rank holds whole.

    With K tasks, m shared parameters of b bytes, h of the tasks' own and N ranks, a rank sends
    about, with :math:`f = (N-1)/N`:

    .. math::
        \text{ascent: } 2f\,b\,(m + h), \quad K \text{ times where it is exact}; \qquad
        \text{gradients: } f\,b\,(K + 1)\,m + 2f\,b\,h

    the latter where the method needs the Gramian (a reduce-scatter of each row and an all-gather of
    the result; :math:`2f\,b\,m` where it needs the losses at most, :math:`2f\,b\,K\,m` where it
    needs the gradients themselves or the model is small). The messages by which the ranks agree on
    losses and probes, :math:`8(2K + 5)` bytes each, count by their number.

    Args:
        perturbation: The perturbation; None for plain multi-task learning.
        needs: What the method needs (`Method.needs <samo.aggregation>`, see ``samo list``).
        tasks: K.
        shared: m, the number of shared parameters.
        ranks: N.
        own: h, the number of parameters of all tasks' own together, evenly divided.
        tensors: The number of parameter tensors.
        element: b, the bytes of a parameter.
        decompose: Whether the aggregation is decomposed.
        sync_perturbation: Whether all ranks perturb along one gradient.
        buffers: The bytes of the model's buffers.

    Returns:
        The cost: of each step but the first, at which the ranks also get to know each other.

    Example:
        Eleven tasks on a ResNet-50 and eight ranks, at 25 GB/s:

        >>> import samo
        >>> from samo.scaling import cost
        >>> step = cost(samo.Perturbation(0.05), "gramian", tasks=11, shared=25_000_000, ranks=8)
        >>> f"{step.sent / 1e9:.2f} GB, {step.seconds(25e9, 30e-6):.3f} s"
        '1.23 GB, 0.051 s'
    """
    matrix = needs in ("gramian", "gradients")
    everything = tasks * shared * element
    if ranks < 2:
        return Cost(1, (), everything if matrix else shared * element)
    ascends = perturbation is not None and perturbation.rho > 0
    estimator = perturbation.estimator if perturbation is not None and ascends else None
    exact, remembers = getattr(estimator, "exact", False), hasattr(estimator, "remember")
    decomposed = decompose and matrix and ascends
    alpha = 1.0 if perturbation is None else perturbation.alpha
    natural = decomposed or (matrix and exact and alpha > 0 and sync_perturbation)
    kept = everything if remembers and not matrix else 0
    rest = Transfer("own gradients", "all_reduce", (own + tensors) * element + kept, 1)
    found = [] if buffers == 0 else [Transfer("buffers", "broadcast", buffers, 1)]
    messages = 2 + (buffers > 0)  # the natural losses, and the end
    if ascends:
        messages += 1 if estimator is None else tasks  # the perturbed losses
    if natural:
        found += [Transfer("natural gradients", "all_reduce", everything, 1), rest]
        messages += 1
    elif ascends and sync_perturbation:
        ascent = _ascent(tasks, shared * element, own * element, exact=exact, alpha=alpha)
        found += ascent
        messages += sum(transfer.count for transfer in ascent if transfer.what != "own directions")
    if isinstance(estimator, SPSA) and sync_perturbation:
        messages += tasks * estimator.samples * (2 if estimator.antithetic else 1)
    memory = everything * (2 if decomposed else 1) if matrix else shared * element + kept
    large = shared >= Replicated.divided_from
    if needs == "gramian" and large and not decomposed and not remembers:
        part = -(-shared // ranks) * element
        memory = tasks * part
        found.append(Transfer("task gradients", "reduce_scatter", part * ranks, tasks))
        found.append(Transfer("update", "all_gather", part * ranks, 1))
        if tasks**2 > 2 * tasks + 1:  # what a message has room for
            found.append(Transfer("Gramian", "all_reduce", 8 * tasks**2, 1))
        messages += tasks + 3
    else:
        whole = everything if matrix else shared * element
        found.append(Transfer("task gradients", "all_reduce", whole, 1))
        messages += 1
    found += [rest, Transfer("messages", "all_reduce", 8 * (2 * tasks + 5), messages)]
    return Cost(ranks, tuple(transfer for transfer in found if transfer.payload), memory)


def _ascent(tasks: int, shared: int, own: int, *, exact: bool, alpha: float) -> list[Transfer]:
    """What it takes to agree on the directions: of sizes in bytes."""
    local = Transfer("local gradients", "all_reduce", shared, tasks)
    if exact and alpha == 0:
        return [local, Transfer("own directions", "all_reduce", own // tasks, tasks)]
    mean = Transfer("mean gradient", "all_reduce", shared, 1)
    directions = [mean, Transfer("own directions", "all_reduce", own, 1)]
    return [*directions, local] if exact else directions
