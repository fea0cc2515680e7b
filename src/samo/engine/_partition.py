"""Determines which parameters are shared, and which belong to one task."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from samo._errors import PartitionError
from samo.distributed import Placement, Ranks
from samo.model import Reached, state_of

from ._claims import Claims, Declared


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

    Declarations take precedence (see `Claims`). The rest is determined from the autograd graph of
    the losses: a parameter that one task reaches is that task's own, one that several tasks reach
    is shared. A parameter that no task has reached yet is assigned later. Frozen parameters
    (``requires_grad=False``) belong to neither part.

    What the graph has shown about a parameter holds for this object under this name: a parameter
    that takes the place of another is assigned anew.

    Args:
        model: The model.
        tasks: The names of the tasks.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that belong to one task, by task. If ``own`` is declared and
            ``shared`` is not, all others are shared.
        guards: Modules outside of the model whose parameters get no gradient.

    Attributes:
        shared: The shared parameters.
        own: The tasks' own parameters.
        names: The parameters' names in the model, by id.
        seen: The tasks whose losses have been seen.

    Raises:
        PartitionError: If the declarations are invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        shared: Declared | None = None,
        own: Mapping[str, Declared] | None = None,
        guards: Iterable[nn.Module] = (),
    ) -> None:
        self._model = model
        self._tasks = tuple(tasks)
        self._claims = Claims(model, self._tasks, shared, own)
        self._reach: dict[str, set[str]] = {}
        self._known: dict[str, Parameter] = {}  # the parameters that `_reach` describes
        self._unreached: set[str] = set()
        self._guards = tuple(guards)
        self._strangers: list[Tensor] = []  # tensors outside of the model that a warning named
        self.seen: set[str] = set()
        self.shared: list[Parameter] = []
        self.own: dict[str, list[Parameter]] = {task: [] for task in tasks}
        self.names: dict[int, str] = {}
        self._settled: list[nn.Module | Parameter] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "names": {}}  # a copy has other ids

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.names = {id(parameter): name for name, parameter in self._known.items()}

    def assignment(self) -> Assignment:
        """Returns the names of the parameters that are declared or found so far."""
        claims = self._claims.owners(self._model)
        owners = {
            name: self._owner(name, self._reach.get(name, set()), claims)
            for name in self.trainable()
        }

        def of(part: str | None) -> tuple[str, ...]:
            return tuple(name for name, owner in owners.items() if owner == part)

        return Assignment(of(None), {task: of(task) for task in self._tasks})

    def facts(self) -> dict[str, str]:
        """Returns descriptions of the declarations, which must be equal on all ranks."""
        claims = self._claims.owners(self._model)
        return {
            f"the declaration of {name!r}": "shared=" if owner is None else f"own[{owner!r}]"
            for name, owner in claims.items()
        }

    def knows(self, tasks: Iterable[str]) -> bool:
        """Whether the parameters of these tasks are known."""
        return self.seen.issuperset(tasks) and self._knows(self.trainable())

    def settles(self, structure: Sequence[nn.Module | Parameter], tasks: Iterable[str]) -> bool:
        """Whether all is assigned, in a model of this structure (see `ModelState`), for tasks."""
        same = len(structure) == len(self._settled) and all(map(is_, structure, self._settled))
        return same and self.seen.issuperset(tasks)

    def is_news(self, losses: Mapping[str, Tensor], placement: Placement) -> bool:
        """Whether the graphs of the losses may change the partition."""
        trainable = self.trainable()
        assigned = [*self.shared, *chain.from_iterable(self.own.values())]
        expected = {*map(id, assigned), *(id(self._known[name]) for name in self._unreached)}
        if not (self.seen.issuperset(losses) and self._knows(trainable)):
            return True
        if {*map(id, trainable.values())} != expected:
            return True
        if not self._unreached:
            return False
        leaves = placement.behind({*Reached(losses.values()).leaves})
        return any(id(trainable[name]) in leaves for name in self._unreached)

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
        named = self.trainable()
        claims = self._claims.owners(self._model)
        # For parameters that are new or were frozen, it is unknown which other tasks reach them.
        seen = set(losses) | (self.seen if self._knows(named) else set())
        old = {n: p for n, p in self._known.items() if n not in named}
        known = {**old, **named}
        reach = {
            n: set(self._reach[n]) if self._is_known(n, p) else set() for n, p in known.items()
        }
        declared = self._claims.rest_is_shared or named.keys() <= claims.keys()
        found = {task: Reached([loss]) for task, loss in losses.items()}
        if hidden := [task for task, reached in found.items() if reached.reentrant]:
            raise PartitionError(
                f"The loss of {hidden[0]!r} depends on a reentrant activation checkpoint, which "
                f"hides its parameters from the autograd graph: use "
                f"torch.utils.checkpoint.checkpoint(.., use_reentrant=False)."
            )
        unambiguous = self._is_visible(found, declared=declared)
        strangers = self._learn(found, named, reach, placement) if unambiguous else []
        if ranks is not None:
            unambiguous = self._unite(ranks, named, reach, seen, unambiguous)
        owners = {name: self._owner(name, reach[name], claims) for name in named}
        parts = {task: [p for n, p in named.items() if owners[n] == task] for task in self._tasks}
        shared = [parameter for name, parameter in named.items() if owners[name] is None]
        unreached = {name for name in named if owners[name] == ""}
        everything_seen = unambiguous and seen == set(self._tasks)
        self._check_assigned(shared, parts, reach, everything_seen=everything_seen)
        self._warn(strangers)
        self.shared, self.own = shared, parts
        self._reach, self._known, self.seen, self._unreached = reach, known, seen, unreached
        self.names = {id(parameter): name for name, parameter in known.items()}
        self._settled = [] if unreached else state_of(self._model).structure

    def check(self) -> None:
        """Raises PartitionError if nothing shared is known since some tasks have not been seen."""
        if self.shared or self.seen.issuperset(self._tasks) or self._claims.rest_is_shared:
            return
        missing = [task for task in self._tasks if task not in self.seen]
        raise PartitionError(
            f"Which parameters are shared is unknown before a loss of {missing} has been seen: "
            f"start with a batch that has several tasks, or declare the tasks' own parameters: "
            f"Engine(.., own={{task: module}})."
        )

    def state_dict(self) -> dict[str, list[str]]:
        """Returns the tasks that reach each parameter, by the parameter's name."""
        return {name: sorted(tasks) for name, tasks in self._reach.items()} | {
            "": sorted(self.seen)
        }

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        """Restores a state from `state_dict`."""
        parameters = {**dict(self._model.named_parameters()), **self._claims.outside}
        self._reach = {name: set(tasks) for name, tasks in state.items() if name in parameters}
        self._known = {name: parameters[name] for name in self._reach}
        self.seen = set(state[""])
        # The next update recomputes the partition.
        self.shared, self.own = [], {task: [] for task in self._tasks}
        self.names, self._settled, self._unreached = {}, [], set()

    def trainable(self) -> dict[str, Parameter]:
        """Returns the parameters that are not frozen, by name."""
        every = {**dict(self._model.named_parameters()), **self._claims.outside}
        return {name: parameter for name, parameter in every.items() if parameter.requires_grad}

    def _is_known(self, name: str, parameter: Parameter) -> bool:
        """Whether the tasks that reach a parameter are known."""
        return self._known.get(name) is parameter

    def _knows(self, trainable: Mapping[str, Parameter]) -> bool:
        return all(self._is_known(name, parameter) for name, parameter in trainable.items())

    def _owner(self, name: str, reach: set[str], claims: Mapping[str, str | None]) -> str | None:
        """Returns the task that a parameter belongs to; None for shared, "" for not reached."""
        if name in claims:
            owner = claims[name]
            if owner is not None and (strangers := reach - {owner}):
                raise PartitionError(
                    f"Parameter {name!r} is declared task {owner!r}'s own, but the loss of "
                    f"{sorted(strangers)} depends on it: declare it shared."
                )
            return owner
        if self._claims.rest_is_shared:
            return None
        if len(reach) > 1 and self._claims.any_shared:
            raise PartitionError(
                f"Parameter {name!r} is reached by tasks {sorted(reach)} but is not in shared=: "
                f"add it there."
            )
        return "" if not reach else min(reach) if len(reach) == 1 else None

    def _is_visible(self, found: Mapping[str, Reached], *, declared: bool) -> bool:
        """Whether no compiled graph hides which parameters a task reaches; else all is declared."""
        for (task, one), (other, two) in combinations(found.items(), 2):
            for node in one.compiled.keys() & two.compiled.keys():
                if one.compiled[node] == two.compiled[node]:
                    continue
                if declared:
                    return False
                raise PartitionError(
                    f"Tasks {task!r} and {other!r} leave one compiled graph by different outputs, "
                    f"so the shared parameters cannot be determined. Declare them: "
                    f"Engine(.., shared=.., own=..)."
                )
        return True

    def _learn(
        self,
        found: Mapping[str, Reached],
        named: Mapping[str, Parameter],
        reach: dict[str, set[str]],
        placement: Placement | None,
    ) -> list[Tensor]:
        """Records which tasks reach which parameters; returns other tensors that they reach."""
        names = {id(parameter): name for name, parameter in named.items()}
        strangers = []
        for task, reached in found.items():
            ids = set(reached.leaves)
            leaves = ids if placement is None else placement.behind(ids)
            for i in leaves & names.keys():
                reach[names[i]].add(task)
            strangers += [reached.leaves[i] for i in (leaves & ids) - names.keys()]
        return strangers

    def _warn(self, leaves: Sequence[Tensor]) -> None:
        """Warns of tensors outside of the model that the losses would train, once for each."""
        models = [self._model, *self._guards]
        inside = [parameter for model in models for parameter in model.parameters()]
        known = {id(tensor) for tensor in [*self._strangers, *inside]}
        if new := list({id(leaf): leaf for leaf in leaves if id(leaf) not in known}.values()):
            self._strangers += new
            shapes = ", ".join(f"{type(t).__name__} {list(t.shape)}" for t in new)
            warnings.warn(
                f"The losses depend on tensors that require gradients and are not in the model, "
                f"so they get none: {shapes}. To train them, declare them, as "
                f"torch.nn.Parameter, in own= or shared=. Inputs need no declaration.",
                stacklevel=2,
            )

    def _check_assigned(
        self,
        shared: Sequence[Parameter],
        own: Mapping[str, Sequence[Parameter]],
        reach: Mapping[str, set[str]],
        *,
        everything_seen: bool,
    ) -> None:
        """Raises PartitionError for a partition with which there is nothing to train or share."""
        if not shared and not any(own.values()):
            raise PartitionError(
                "No task's loss reaches a trainable parameter of the model. Are all parameters "
                "frozen, or were the losses computed from another model or under no_grad?"
            )
        if not everything_seen:
            return
        # With a frozen trunk, the heads are trained until it is thawed.
        frozen = any(not parameter.requires_grad for parameter in self._model.parameters())
        if not shared and not frozen and len(self._tasks) > 1:
            raise PartitionError(
                f"The tasks {list(self._tasks)} share no trainable parameter: there is nothing to "
                f"balance. Train them separately, or check that their losses come from one model."
            )
        if idle := [name for name in self._claims.outside if not reach.get(name, {""})]:
            raise PartitionError(
                f"{idle[0]} is a declared parameter of shape "
                f"{tuple(self._claims.outside[idle[0]].shape)} that is not in the model, and no "
                f"loss depends on it."
            )

    def _unite(
        self,
        ranks: Ranks,
        named: Iterable[str],
        reach: dict[str, set[str]],
        seen: set[str],
        unambiguous: bool,
    ) -> bool:
        """Adds the records of other ranks; False if a compiled graph hides them on any rank."""
        named = list(named)
        ranks.check({"trainable parameters": ", ".join(named)})
        rows = [*(reach[name] for name in named), seen]
        flags = torch.tensor([[task in row for task in self._tasks] for row in rows])
        ambiguous = torch.tensor([not unambiguous])
        *united, hidden = ranks.largest(torch.cat([flags.flatten(), ambiguous])).tolist()
        k = len(self._tasks)
        for number, row in enumerate(rows):
            there = united[number * k : (number + 1) * k]
            row |= {task for task, flag in zip(self._tasks, there, strict=True) if flag}
        return not hidden
