"""Determines which parameters are shared, and which belong to one task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from samo._errors import PartitionError
from samo.distributed import Placement, Ranks
from samo.model import Reached, modules_of, parameters_of

Declared = Iterable[Parameter | nn.Module] | Parameter | nn.Module
"""Parameters or modules; a module declares all of its parameters."""


@dataclass(frozen=True)
class Assignment:
    """The names of the parameters, by the part to which they are assigned.

    Attributes:
        shared: The shared parameters.
        own: The tasks' own parameters, by task.
    """

    shared: tuple[str, ...]
    own: Mapping[str, tuple[str, ...]]


class Partition:
    """Divides the trainable parameters of a model into a shared part and the tasks' own.

    Declarations take precedence. The rest is determined from the autograd graph of the losses: a
    parameter that one task reaches is that task's own, one that several tasks reach is shared. A
    parameter that no task has reached yet is assigned later. Frozen parameters
    (``requires_grad=False``) belong to neither part.

    Args:
        model: The model.
        tasks: The names of the tasks.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that belong to one task, by task. If ``own`` is declared and
            ``shared`` is not, all others are shared.

    Attributes:
        shared: The shared parameters.
        own: The tasks' own parameters.
        names: The parameters' names in the model, by id.
        seen: The tasks whose losses have been seen.
        settled: The ids of the trainable parameters if all are assigned, else None. While these are
            the model's trainable parameters, losses of ``seen`` tasks cannot change the partition.

    Raises:
        PartitionError: If a declared parameter is not in the model, is declared twice, or belongs
            to an unknown task, or if ``shared`` has no trainable parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        shared: Declared | None = None,
        own: Mapping[str, Declared] | None = None,
    ) -> None:
        self._model = model
        self._tasks = tuple(tasks)
        self._claims = _claims(model, self._tasks, shared, own)
        self._rest_is_shared = own is not None and shared is None
        self._reach: dict[int, set[str]] = {}
        self.seen: set[str] = set()
        self.names: dict[int, str] = {}
        self.settled: set[int] | None = None
        self._unreached: set[int] = set()
        self.shared: list[Parameter] = []
        self.own: dict[str, list[Parameter]] = {task: [] for task in tasks}
        claimed = {i for i, owner in self._claims.items() if owner is None}
        if shared is not None and not any(
            p.requires_grad for p in model.parameters() if id(p) in claimed
        ):
            raise PartitionError(
                "shared= names no trainable parameter; it needs at least one parameter (or a "
                "module with one) whose requires_grad is True."
            )

    def assignment(self) -> Assignment:
        """Returns the names of the parameters that are declared or found so far."""
        owners = {
            name: self._owner(id(parameter), name, self._reach.get(id(parameter), set()))
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        }

        def of(part: str | None) -> tuple[str, ...]:
            return tuple(name for name, owner in owners.items() if owner == part)

        return Assignment(of(None), {task: of(task) for task in self._tasks})

    def knows(self, tasks: Iterable[str]) -> bool:
        """Whether the parameters of these tasks are known."""
        return self._knows(tasks, self._trainable())

    def is_news(self, losses: Mapping[str, Tensor], placement: Placement) -> bool:
        """Whether the graphs of the losses may change the partition."""
        trainable = self._trainable()
        if trainable != self.names.keys() or not self._knows(losses, trainable):
            return True
        if not self._unreached:
            return False
        leaves = placement.behind(Reached(losses.values()).leaves)
        return not self._unreached.isdisjoint(leaves)

    def update(
        self,
        losses: Mapping[str, Tensor],
        ranks: Ranks | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Assigns the parameters that the graphs of the losses reach.

        Args:
            losses: The natural losses of this rank by task, with their graphs.
            ranks: The ranks, which exchange their results; only this process if None.
            placement: The placement of the parameters.

        Raises:
            PartitionError: If the graph is ambiguous, contradicts the declarations, or leaves no
                parameter to train or to share.
        """
        trainable = self._trainable()
        named = {id(p): (n, p) for n, p in self._model.named_parameters() if id(p) in trainable}
        # For parameters that have become trainable, it is unknown which other tasks reach them.
        seen = set(losses) | (self.seen if named.keys() <= self._reach.keys() else set())
        reach = {i: set(self._reach.get(i, ())) for i in self._reach.keys() | named.keys()}
        unambiguous = self._learn(losses, named, reach, placement)
        if ranks is not None:
            unambiguous = self._unite(ranks, named, reach, seen, unambiguous)
        shared: list[Parameter] = []
        own: dict[str, list[Parameter]] = {task: [] for task in self._tasks}
        unreached: set[int] = set()
        for i, (name, parameter) in named.items():
            owner = self._owner(i, name, reach[i])
            if owner is None:
                shared.append(parameter)
            elif owner == "":
                unreached.add(i)
            else:
                own[owner].append(parameter)
        if not shared and not any(own.values()):
            raise PartitionError(
                "No task's loss reaches a trainable parameter of the model. Are all parameters "
                "frozen, or were the losses computed from another model or under no_grad?"
            )
        if not shared and unambiguous and seen == set(self._tasks) and len(seen) > 1:
            raise PartitionError(
                f"The tasks {list(self._tasks)} share no trainable parameter: there is nothing to "
                f"balance. Train them separately, or check that their losses come from one model."
            )
        self.shared, self.own = shared, own
        self._reach, self.seen, self._unreached = reach, seen, unreached
        self.names = {i: name for i, (name, _) in named.items()}
        self.settled = None if unreached else set(named)

    def state_dict(self) -> dict[str, list[str]]:
        """Returns the tasks that reach each parameter, by the parameter's name."""
        return {
            name: sorted(self._reach[id(p)])
            for name, p in self._model.named_parameters()
            if id(p) in self._reach
        } | {"": sorted(self.seen)}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        """Restores a state from `state_dict`."""
        parameters = dict(self._model.named_parameters())
        self._reach = {id(parameters[n]): set(tasks) for n, tasks in state.items() if n}
        self.seen = set(state[""])
        self.names, self.settled = {}, None  # the next update recomputes the partition

    def _knows(self, tasks: Iterable[str], trainable: Set[int]) -> bool:
        return self.seen.issuperset(tasks) and trainable <= self._reach.keys()

    def _trainable(self) -> set[int]:
        """Returns the ids of the parameters that are not frozen."""
        return {id(p) for p in parameters_of(modules_of(self._model)) if p.requires_grad}

    def _owner(self, i: int, name: str, reach: set[str]) -> str | None:
        """Returns the task that a parameter belongs to; None for shared, "" for not reached."""
        if i in self._claims:
            owner = self._claims[i]
            if owner is not None and (strangers := reach - {owner}):
                raise PartitionError(
                    f"Parameter {name!r} is declared task {owner!r}'s own, but the loss of "
                    f"{sorted(strangers)} depends on it: declare it shared."
                )
            return owner
        if self._rest_is_shared:
            return None
        if len(reach) > 1 and None in self._claims.values():
            raise PartitionError(
                f"Parameter {name!r} is reached by tasks {sorted(reach)} but is not in shared=: "
                f"add it there."
            )
        return "" if not reach else reach.copy().pop() if len(reach) == 1 else None

    def _learn(
        self,
        losses: Mapping[str, Tensor],
        named: Mapping[int, object],
        reach: dict[int, set[str]],
        placement: Placement | None,
    ) -> bool:
        """Records which tasks reach which parameters; False if a compiled graph hides this."""
        found = {task: Reached([loss]) for task, loss in losses.items()}
        for (task, one), (other, two) in combinations(found.items(), 2):
            for node in one.compiled.keys() & two.compiled.keys():
                if one.compiled[node] == two.compiled[node]:
                    continue
                if self._rest_is_shared or named.keys() <= self._claims.keys():
                    return False
                raise PartitionError(
                    f"Tasks {task!r} and {other!r} leave one compiled graph by different outputs, "
                    f"so the shared parameters cannot be determined. Declare them: "
                    f"Engine(.., shared=.., own=..)."
                )
        for task, reached in found.items():
            leaves = reached.leaves if placement is None else placement.behind(reached.leaves)
            for i in leaves & named.keys():
                reach[i].add(task)
        return True

    def _unite(
        self,
        ranks: Ranks,
        named: Iterable[int],
        reach: dict[int, set[str]],
        seen: set[str],
        unambiguous: bool,
    ) -> bool:
        """Adds the records of other ranks; False if a compiled graph hides them on any rank."""
        rows = [*(reach[i] for i in named), seen]
        flags = torch.tensor([[task in row for task in self._tasks] for row in rows])
        ambiguous = torch.tensor([not unambiguous])
        *united, hidden = ranks.largest(torch.cat([flags.flatten(), ambiguous])).tolist()
        k = len(self._tasks)
        for number, row in enumerate(rows):
            there = united[number * k : (number + 1) * k]
            row |= {task for task, flag in zip(self._tasks, there, strict=True) if flag}
        return not hidden


def _claims(
    model: nn.Module,
    tasks: tuple[str, ...],
    shared: Declared | None,
    own: Mapping[str, Declared] | None,
) -> dict[int, str | None]:
    """Returns the owners of declared parameters, by id: a task, or None for shared."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if own is not None and not isinstance(own, Mapping):
        raise TypeError(
            f"own must map task names to parameters or modules; found {type(own).__name__}."
        )
    if unknown := [task for task in own or {} if task not in tasks]:
        raise PartitionError(f"own= names unknown tasks {unknown}; the tasks are {list(tasks)}.")
    claims: dict[int, str | None] = {}
    parts: list[tuple[str | None, Declared]] = [] if shared is None else [(None, shared)]
    for owner, declared in [*parts, *(own or {}).items()]:
        for parameter in declared_parameters(declared):
            if id(parameter) not in names:
                raise PartitionError(
                    f"{_claim(owner)} contains a parameter of shape {tuple(parameter.shape)} that "
                    f"is not in the model."
                )
            if claims.setdefault(id(parameter), owner) != owner:
                raise PartitionError(
                    f"Parameter {names[id(parameter)]!r} is declared twice: in "
                    f"{_claim(claims[id(parameter)])} and in {_claim(owner)}."
                )
    return claims


def _claim(owner: str | None) -> str:
    return "shared=" if owner is None else f"own[{owner!r}]"


def declared_parameters(declared: Declared) -> Iterable[Parameter]:
    """Yields the parameters of a declaration; raises PartitionError for anything else."""
    if isinstance(declared, nn.Module):
        return declared.parameters()
    if isinstance(declared, Parameter):
        return [declared]
    if isinstance(declared, Iterable) and not isinstance(declared, str | Tensor):
        return [parameter for item in declared for parameter in declared_parameters(item)]
    raise PartitionError(
        f"Expected parameters or modules in shared= and own=, found {type(declared).__name__}."
    )
