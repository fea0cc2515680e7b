"""What is known of a method, and the ways to make one from its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torchjd import Stateful
from torchjd.aggregation import GramianWeightedAggregator

from ._sees_losses import SeesLosses

Options = dict[str, Any]

# Arguments of TorchJD's constructors that `create` fills in by itself.
_FILLED_IN = {"shape", "n_tasks", "weighting"}


def plain(kind: Callable[..., Any], _n_tasks: int, options: Options) -> Any:
    """One that does not care how many tasks there are."""
    return kind(**options)


def sized(kind: Callable[..., Any], n_tasks: int, options: Options) -> Any:
    """One that is told the number of tasks."""
    return kind(n_tasks, **options)


def uniform(kind: Callable[..., Any], n_tasks: int, options: Options) -> Any:
    """One with a preference vector: equal weights where none is given."""
    weights = options.pop("weights")
    return kind(weights=torch.ones(n_tasks) / n_tasks if weights is None else weights, **options)


def of_gramian(kind: Callable[..., Any], _n_tasks: int, options: Options) -> Any:
    """The aggregator of a weighting that has none of its own."""
    return GramianWeightedAggregator(kind(**options))


@dataclass(frozen=True)
class Method:
    """What is known of a method.

    Attributes:
        name: Its name.
        title: Its name in words.
        needs: What must be known before the tasks can be weighed: ``"nothing"``, the ``"losses"``,
            the ``"gramian"`` of the task gradients, or the ``"gradients"`` themselves.
        kind: TorchJD's class (or one of this package).
        references: Keys of its papers in ``references.bib``.
        published: Defaults that TorchJD leaves open, from the papers.
        note: What a user should know before using it.
        aliases: Other names for it.
        build: Makes one, from ``kind``, the number of tasks and the options.
        trained: Whether it has parameters of its own, for the user's optimizer to train.
        tasks_for: The smallest number of tasks that it takes, from the options.
    """

    name: str
    title: str
    needs: Literal["nothing", "losses", "gramian", "gradients"]
    kind: type[Any]
    references: tuple[str, ...] = ()
    published: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    aliases: tuple[str, ...] = ()
    trained: bool = False
    build: Callable[[Callable[..., Any], int, Options], Any] = field(default=plain, repr=False)
    tasks_for: Callable[[Mapping[str, Any]], int] = field(default=lambda _: 1, repr=False)

    @property
    def options(self) -> tuple[str, ...]:
        """The names of its options."""
        own = [p for p in inspect.signature(self.kind).parameters if p not in _FILLED_IN]
        return tuple(dict.fromkeys([*self.published, *own]))

    @property
    def defaults(self) -> dict[str, Any]:
        """The options that need not be given, with their values."""
        parameters = inspect.signature(self.kind).parameters
        given = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
        given.update(self.published)
        return {name: given[name] for name in self.options if name in given}

    @property
    def stateful(self) -> bool:
        """Whether it keeps a state of its own: what it gives depends on earlier calls."""
        return issubclass(self.kind, Stateful)

    @property
    def sees_losses(self) -> bool:
        """Whether it needs the losses besides what `needs` says."""
        return issubclass(self.kind, SeesLosses)

    @property
    def min_tasks(self) -> int:
        """The smallest number of tasks that it takes, with the default options."""
        return self.tasks_for(self.defaults)
