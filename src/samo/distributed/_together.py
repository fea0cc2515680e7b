"""Several processes that take a step together, by ``torch.distributed``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from itertools import chain
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samo._errors import NonFiniteError, RankError

from ._ranks import Agreement, Ranks


class _Place(Enum):
    """The points of a step at which ranks communicate."""

    END = 0
    NATURAL = 1
    LOSSES = 2
    FLAGS = 3
    NUMBERS = 4
    GRADIENTS = 5
    UPDATE = 6
    BUFFERS = 7


_Failure = tuple[str, str, Sequence[str], str]
"""The class and message of an error; the tasks and the stage of a `NonFiniteError`."""

_SHOWN = 8  # differences in a message

# The names of recent versions of torch, and those of the versions before.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Callable[..., Any] = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)


class Together(Ranks):
    """The ranks of a process group.

    Small values (losses, and whether a rank has failed) are exchanged in a *message* of constant
    length, so that a failing rank need not know what the others exchange next. A message precedes
    each large transfer: no rank waits for gradients that will not be sent. A message costs an
    all-reduce of 8(2K + 5) bytes. It includes the rank's position in the step, so that ranks that
    are out of step are detected.

    Args:
        group: The process group.
        device: The device of the model's parameters.
        tasks: The names of all K tasks.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, tasks: Sequence[str]
    ) -> None:
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self._group = group
        self._device = device
        self._tasks = tuple(tasks)
        self._backend = dist.get_backend(group)
        self._met = False
        self._settled = False

    def together(self) -> AbstractContextManager[None]:
        """Announces an exception in its body to the other ranks, and raises theirs."""
        return _Meeting(self)

    def meet(self) -> None:
        """Waits for the other ranks before the first step."""
        if not self._met:
            self._meet()
        self._settled = False

    def part(self, error: BaseException | None) -> None:
        """Ends a step: announces this rank's error, or raises that of another."""
        try:
            if error is None:
                self._announce(_Place.END)
        except Exception as found:
            self._report(found)
            raise
        if isinstance(error, Exception):
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._settled:
            self._exchange([], _Place.END, error)

    def check(self, facts: Mapping[str, str]) -> None:
        """Compares a digest of the facts; exchanges the facts themselves only if it differs."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()[:7]
        number = int.from_bytes(digest, "big")
        highest, lowest = self.largest(torch.tensor([number, -number])).tolist()
        if highest != -lowest:
            self._compare(facts)

    def agree(
        self, losses: Mapping[str, Tensor], sizes: Mapping[str, float], *, news: bool
    ) -> Agreement:
        """Sums n_i l_i and n_i over the ranks."""
        here = {task: float(sizes[task]) for task in losses}
        # A loss of size 0 is left out: a mean over no samples may be NaN.
        values = [losses[t].item() * n if (n := here.get(t, 0.0)) else 0.0 for t in self._tasks]
        numbers = [here.get(task, 0.0) for task in self._tasks]
        sums = self._exchange([*values, *numbers, float(news)], _Place.NATURAL)
        k = len(self._tasks)
        totals = dict(zip(self._tasks, sums[k : 2 * k].tolist(), strict=True))
        present = [task for task in self._tasks if totals[task] > 0]
        means = {
            t: (sums[i] / totals[t]).to(self._device)
            for i, t in enumerate(self._tasks)
            if totals[t] > 0
        }
        # The means are in float64 for any dtype of the losses: the same bits on all ranks.
        shares = {task: here.get(task, 0.0) / totals[task] for task in present}
        return Agreement(means, {t: totals[t] for t in present}, shares, sums[2 * k].item() > 0)

    def means(
        self, tasks: Sequence[str], losses: Mapping[str, Tensor], shares: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Sums the losses times their shares."""
        parts = [losses[t].item() * shares[t] if shares[t] else 0.0 for t in tasks]
        sums = self._exchange(parts, _Place.LOSSES).to(self._device)
        return dict(zip(tasks, sums, strict=True))

    def largest(self, flags: Tensor) -> Tensor:
        """Runs an all-reduce of the maximum."""
        flags = flags.to(self._device, torch.int64, copy=True)
        self._announce(_Place.FLAGS)
        with self._reaching():
            dist.all_reduce(flags, dist.ReduceOp.MAX, self._group)
        return flags.cpu()

    def total(self, part: Tensor) -> Tensor:
        """Sums in a message if the numbers fit in it, else by an all-reduce."""
        if part.numel() <= self._room:
            sums = self._exchange(part.flatten().tolist(), _Place.NUMBERS)
            return sums.to(part).view(part.shape)
        numbers = part.to(self._device, copy=True)
        self.add_([numbers])
        return numbers.to(part.device)

    def add_(
        self, large: Sequence[Tensor], small: Sequence[Tensor] = (), marks: Sequence[bool] = ()
    ) -> Sequence[bool]:
        """Runs an all-reduce for each large tensor, and one for all small ones of a kind."""
        like = next(iter([*small, *large]), torch.empty(0, device=self._device))
        counts = like.new_tensor([float(mark) for mark in marks])
        groups = _by_kind([*small, counts])
        buffers = [torch.cat([flat.flatten() for flat in group]) for group in groups]
        self._announce(_Place.GRADIENTS)
        for buffer in [*large, *buffers]:
            if buffer.numel():
                with self._reaching():
                    dist.all_reduce(buffer, group=self._group)
        for buffer, group in zip(buffers, groups, strict=True):
            _split(buffer, group)
        return [count > 0 for count in counts.tolist()]

    def scatter(self, flat: Tensor) -> Tensor:
        """Runs a reduce-scatter."""
        # Gloo implements it by an all-reduce, with twice the traffic. With gloo, slices are
        # exchanged and summed here.
        native = self._backend != "gloo"
        received = flat.new_empty(len(flat) // self.size if native else len(flat))
        self._announce(_Place.GRADIENTS)
        with self._reaching():
            if native:
                _reduce_scatter(received, flat, group=self._group)
                return received
            dist.all_to_all_single(received, flat, group=self._group)
        return received.view(self.size, -1).sum(0)

    def gather(self, part: Tensor) -> Tensor:
        """Runs an all-gather."""
        whole = part.new_empty(self.size * len(part))
        self._announce(_Place.UPDATE)
        with self._reaching():
            _all_gather(whole, part, group=self._group)
        return whole

    def broadcast_(self, flats: Sequence[Tensor]) -> None:
        """Runs one broadcast for each device and dtype."""
        groups = _by_kind(flats)
        buffers = [torch.cat([flat.flatten() for flat in group]) for group in groups]
        if not buffers:
            return
        self._announce(_Place.BUFFERS)
        for buffer, group in zip(buffers, groups, strict=True):
            with self._reaching():
                dist.broadcast(buffer, group=self._group, group_src=0)
            if self.rank > 0:
                _split(buffer, group)

    def _meet(self) -> None:
        """Waits for all ranks, and checks that their messages have the same length."""
        k = len(self._tasks)
        counts = torch.tensor([k, -k], device=self._device)
        with self._reaching():
            if self._backend == "gloo":
                dist.monitored_barrier(self._group)  # names a rank that has not arrived
            dist.all_reduce(counts, dist.ReduceOp.MAX, self._group)
        if counts.sum() != 0:
            self._compare({"tasks": repr(list(self._tasks))})
        self._met = True

    def _compare(self, facts: Mapping[str, str]) -> None:
        """Raises ValueError with the facts that differ."""
        everyone = self._everyone(facts)
        names = dict.fromkeys(chain.from_iterable(everyone))
        differing = [name for name in names if len({its.get(name) for its in everyone}) > 1]
        shown = [
            f"{name} ("
            + ", ".join(f"rank {r}: {its.get(name, 'none')}" for r, its in enumerate(everyone))
            + ")"
            for name in differing[:_SHOWN]
        ]
        if more := len(differing) - len(shown):
            shown.append(f"{more} more")
        raise ValueError(
            f"The ranks must have the same engine. They differ in: {'; '.join(shown)}."
        )

    @property
    def _room(self) -> int:
        return 2 * len(self._tasks) + 1

    def _announce(self, place: _Place) -> None:
        self._exchange([], place)

    def _exchange(
        self, values: Sequence[float], place: _Place, error: Exception | None = None
    ) -> Tensor:
        """Sums a message; raises an error if a rank has failed or is at another place."""
        failed = float(error is not None)
        room = [0.0] * (self._room - len(values))
        head = [failed, 1.0, place.value, place.value**2]
        message = torch.tensor([*head, *values, *room], dtype=torch.float64, device=self._device)
        with self._reaching():
            dist.all_reduce(message, group=self._group)
        message = message.cpu()
        if message[0] > 0:
            self._settled = True
            _settle(self._everyone(None if error is None else _described(error)), error)
        elif message[1] * message[3] != message[2] ** 2:  # the places' variance
            self._settled = True
            raise RankError(
                f"The ranks are not in step: rank {self.rank} is at {place.name}, others are "
                f"not. All ranks must call the engine the same number of times, with the same "
                f"number of closures."
            )
        return message[len(head) : len(head) + len(values)]

    def _everyone(self, mine: Any) -> list[Any]:
        """Gathers an object from each rank as JSON, since ``all_gather_object`` needs NumPy."""
        text = torch.tensor([*json.dumps(mine).encode()], dtype=torch.uint8, device=self._device)
        longest = torch.tensor([len(text)], device=self._device)
        with self._reaching():
            dist.all_reduce(longest, dist.ReduceOp.MAX, self._group)
            padded = nn.functional.pad(text, (0, int(longest) - len(text)), value=ord(" "))
            whole = padded.new_empty(self.size * len(padded))
            _all_gather(whole, padded, group=self._group)
        return [json.loads(bytes(its)) for its in whole.view(self.size, -1).tolist()]

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns the failure of a collective operation into a `RankError`."""
        try:
            yield
        except RuntimeError as error:
            self._settled = True
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RankError(
                f"Rank {self.rank} cannot reach another rank: it has died, or did not arrive "
                f"within the process group's timeout ({reason}). The group can no longer be used: "
                f"end this process. Under torchrun --max-restarts, all ranks then restart from the "
                f"last checkpoint."
            ) from error


class _Meeting(AbstractContextManager[None]):
    """The context of a step. It is no generator, in which a StopIteration changes its type."""

    def __init__(self, ranks: Together) -> None:
        self._ranks = ranks

    def __enter__(self) -> None:
        self._ranks.meet()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ranks.part(error)


def _by_kind(flats: Sequence[Tensor]) -> list[list[Tensor]]:
    """Groups nonempty tensors by device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for flat in flats:
        if flat.numel():
            groups.setdefault((flat.device, flat.dtype), []).append(flat)
    return list(groups.values())


def _split(buffer: Tensor, parts: Sequence[Tensor]) -> None:
    """Copies a buffer's values back to the tensors that it was concatenated from."""
    for part, its in zip(parts, buffer.split([p.numel() for p in parts]), strict=True):
        part.detach().copy_(its.view_as(part))


def _described(error: Exception) -> _Failure:
    tasks, stage = (error.tasks, error.stage) if isinstance(error, NonFiniteError) else ((), "")
    return type(error).__name__, str(error), tasks, stage


def _settle(failures: Sequence[_Failure | None], mine: Exception | None) -> None:
    """Raises the error of the other ranks; returns if it is this rank's own error."""
    found = {rank: failure for rank, failure in enumerate(failures) if failure is not None}
    if all(stage for *_, stage in found.values()):
        # If the gradient of a sum is at fault, not every rank can determine the task.
        _, _, tasks, stage = min(found.values(), key=lambda failure: len(failure[2]))
        if isinstance(mine, NonFiniteError) and (mine.tasks, mine.stage) == (tuple(tasks), stage):
            return
        raise NonFiniteError(tasks, stage)
    if mine is None or isinstance(mine, NonFiniteError):
        others = "; ".join(f"rank {r}: {kind}: {text}" for r, (kind, text, *_) in found.items())
        raise RankError(f"Another rank has failed, so no rank takes this step: {others}")
