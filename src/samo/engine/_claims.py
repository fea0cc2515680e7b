"""The parts of a model that the user declares shared or a task's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import Parameter

from samo._errors import PartitionError

Declared = Iterable[Parameter | nn.Module] | Parameter | nn.Module
"""Parameters or modules; a module declares all of its parameters."""


class Claims:
    """Declared owners of parameters, by name.

    Modules and parameters of the model are known by their names in it, so that a module that takes
    the place of another is declared as that one was. Parameters outside of the model are held.

    Args:
        model: The model.
        tasks: The names of the tasks.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that belong to one task, by task.

    Attributes:
        any_shared: Whether something is declared shared.
        rest_is_shared: Whether all that is not declared is shared.
        outside: The declared parameters outside of the model, by a name.

    Raises:
        PartitionError: If a declaration is empty, names a parameter twice, or names an unknown
            task.
        TypeError: If ``own`` is not a mapping.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        shared: Declared | None,
        own: Mapping[str, Declared] | None,
    ) -> None:
        if own is not None and not isinstance(own, Mapping):
            raise TypeError(
                f"own must map task names to parameters or modules; found {type(own).__name__}."
            )
        if unknown := [task for task in own or {} if task not in tasks]:
            raise PartitionError(
                f"own= names unknown tasks {unknown}; the tasks are {list(tasks)}."
            )
        self.any_shared = shared is not None
        self.rest_is_shared = own is not None and shared is None
        self.outside: dict[str, Parameter] = {}
        self._paths: dict[str, str | None] = {}  # names of modules and parameters
        self._outside_owners: dict[str, str | None] = {}
        parts: list[tuple[str | None, Declared]] = [] if shared is None else [(None, shared)]
        for owner, declared in [*parts, *(own or {}).items()]:
            found = list(self._find(model, declared, owner))
            if owner is None and not found:
                raise PartitionError(
                    "shared= names no parameter; it needs at least one parameter, or a module "
                    "with one."
                )
        self.owners(model)

    def owners(self, model: nn.Module) -> dict[str, str | None]:
        """Returns the declared owners by the parameters' names; None for shared.

        Raises:
            PartitionError: If a parameter is declared twice, or a declared name is no longer in
                the model.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        modules = dict(model.named_modules(remove_duplicate=False))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        found = dict(self._outside_owners)
        for path, owner in self._paths.items():
            if path in modules:
                tensors = list(modules[path].parameters())
            elif path in parameters:
                tensors = [parameters[path]]
            else:
                raise PartitionError(
                    f"{_claim(owner)} contains {path!r}, which the model has no longer: create "
                    f"another engine."
                )
            for tensor in tensors:
                if found.setdefault(names[id(tensor)], owner) != owner:
                    raise PartitionError(_twice(names[id(tensor)], found[names[id(tensor)]], owner))
        return found

    def _find(self, model: nn.Module, declared: Declared, owner: str | None) -> Iterator[str]:
        """Yields the names of what is declared, and records its owner."""
        modules = {id(module): name for name, module in model.named_modules()}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for item in _items(declared):
            if id(item) in modules and any(True for _ in _parameters(item)):
                name = modules[id(item)]
            elif id(item) in names:
                name = names[id(item)]
            elif isinstance(item, Parameter):
                name = self._hold(item, owner)
                if self._outside_owners.setdefault(name, owner) != owner:
                    raise PartitionError(_twice(name, self._outside_owners[name], owner))
                yield name
                continue
            else:  # a module outside of the model, perhaps of modules inside
                parts = [*item.children(), *item._parameters.values()]
                yield from self._find(model, [part for part in parts if part is not None], owner)
                continue
            if self._paths.setdefault(name, owner) != owner:
                raise PartitionError(_twice(name, self._paths[name], owner))
            yield name

    def _hold(self, parameter: Parameter, owner: str | None) -> str:
        """Returns the name of a parameter outside of the model."""
        for name, held in self.outside.items():
            if held is parameter:
                return name
        name = f"{_claim(owner)}[{len(self.outside)}]"
        self.outside[name] = parameter
        return name


def declared_parameters(declared: Declared) -> list[Parameter]:
    """Returns the parameters of a declaration; raises PartitionError for anything else."""
    return [parameter for item in _items(declared) for parameter in _parameters(item)]


def _items(declared: Declared) -> Iterator[Parameter | nn.Module]:
    """Yields the modules and parameters of a declaration."""
    if isinstance(declared, nn.Module | Parameter):
        yield declared
    elif isinstance(declared, Iterable) and not isinstance(declared, str | Tensor):
        for item in declared:
            yield from _items(item)
    else:
        raise PartitionError(
            f"Expected parameters or modules in shared= and own=, found {type(declared).__name__}."
        )


def _parameters(item: Parameter | nn.Module) -> Iterable[Parameter]:
    return item.parameters() if isinstance(item, nn.Module) else [item]


def _claim(owner: str | None) -> str:
    return "shared=" if owner is None else f"own[{owner!r}]"


def _twice(name: str, owner: str | None, other: str | None) -> str:
    return f"Parameter {name!r} is declared twice: in {_claim(owner)} and in {_claim(other)}."
