"""Entries of the table of methods, which create the methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torchjd import Stateful
from torchjd.aggregation import Aggregator, Weighting
from torchjd.scalarization import Scalarizer

from ._gramian_aggregator import GramianAggregator
from ._sees_losses import SeesLosses

# Constructor arguments that are not options: the number of tasks, under both of its names, and the
# weighting that CR-MOGM smooths.
_N_TASKS = {"n_tasks", "shape"}
_NO_OPTIONS = {*_N_TASKS, "weighting"}


@dataclass(frozen=True)
class Method:
    """A method of the table.

    Attributes:
        name: The name.
        title: The full name.
        needs: The input that the task weights depend on: ``"nothing"``, the ``"losses"``, the
            ``"sharpness"``, the ``"gramian"`` of the task gradients, or the ``"gradients"``
            themselves.
        kind: The class: an aggregator, a weighting or a scalarizer of TorchJD or of this package.
        references: Keys of its papers in ``references.bib``.
        published: Defaults from the papers, for options without a default in ``kind``.
        note: A remark for users.
        aliases: Other names.
        trained: Whether it has parameters that the user's optimizer must train.
        tasks_for: Returns the smallest number of tasks, from the options.
    """

    name: str
    title: str
    needs: Literal["nothing", "losses", "sharpness", "gramian", "gradients"]
    kind: type[Any]
    references: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    aliases: tuple[str, ...] = ()
    trained: bool = False
    tasks_for: Callable[[Mapping[str, Any]], int] = field(default=lambda _: 1, repr=False)

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options."""
        own = [p for p in inspect.signature(self.kind).parameters if p not in _NO_OPTIONS]
        return tuple(dict.fromkeys([*self.published, *own]))

    @property
    def defaults(self) -> dict[str, Any]:
        """The default values of the options that have one."""
        parameters = inspect.signature(self.kind).parameters
        given = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        given.update(self.published)
        return {name: given[name] for name in self.options if name in given}

    @property
    def stateful(self) -> bool:
        """Whether results depend on earlier calls."""
        return issubclass(self.kind, Stateful)

    @property
    def sees_losses(self) -> bool:
        """Whether it needs the losses in addition to `needs`."""
        return issubclass(self.kind, SeesLosses)

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels at which it can compare task gradients (see `samo.Engine`).

        None if it does not compare them. Gradients at the representation have the coordinates of
        their batch, so a method that keeps gradients from step to step compares the parameters'.
        """
        if self.needs in ("nothing", "losses", "sharpness"):
            return ()
        kept = self.needs == "gradients" and self.stateful
        return ("parameter",) if kept else ("parameter", "representation")

    @property
    def min_tasks(self) -> int:
        """The smallest number of tasks with the default options."""
        return self.tasks_for(self.defaults)

    def make(self, n_tasks: int, arguments: Mapping[str, Any]) -> Aggregator | Scalarizer:
        """Creates the aggregator or scalarizer.

        Args:
            n_tasks: The number of tasks K, passed to constructors that take it.
            arguments: The other arguments of the constructor.

        Returns:
            An object of ``kind``, inside a ``GramianWeightedAggregator`` if it is a weighting.
        """
        sizes = [n_tasks] if _N_TASKS & inspect.signature(self.kind).parameters.keys() else []
        made: Aggregator | Scalarizer | Weighting[Any] = self.kind(*sizes, **arguments)
        return GramianAggregator(made) if isinstance(made, Weighting) else made
