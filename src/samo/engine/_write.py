"""Writing: a step's gradients are added to ``.grad``, all of them or none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.model import Journal
from samo.tensors import shards

from ._finite import Guard
from ._setting import Setting
from ._task_gradients import TaskGradients
from ._update import Update

Pairs = Sequence[tuple[Parameter, Tensor]]
"""Parameters with their gradients."""


def write(
    setting: Setting, guard: Guard, gradients: TaskGradients, update: Update
) -> list[Parameter]:
    """Adds the gradients of a step to ``.grad``, and passes them to what remembers them.

    Returns:
        The parameters that have a new gradient.
    """
    partition, placement = setting.partition, setting.world.placement
    parts = [(partition.shared, update.shared)]
    parts += [(partition.own[task], vector) for task, vector in gradients.own.items()]
    parameters = [parameter for part, _ in parts for parameter in part]
    found = [tensor for _, vector in parts for tensor in vector.tensors]
    reached = [id(parameter) in gradients.reached for parameter in parameters]
    pairs = list(compress(zip(parameters, found, strict=True), reached))
    learn(setting, guard, pairs)
    if update.of_method:
        of_method = zip(setting.combiner.parameters, update.of_method, strict=True)
        pairs += [
            (parameter, gradient) for parameter, gradient in of_method if gradient is not None
        ]
    accumulate(setting, pairs)
    estimator = None if setting.ascending is None else setting.ascending.estimator
    if estimator is not None and gradients.remembered:
        names = [partition.names[id(parameter)] for parameter in partition.shared]
        for task, vector in gradients.remembered.items():
            whole = map(placement.as_gradient, vector.tensors, partition.shared)
            estimator.remember(task, dict(zip(names, whole, strict=True)))
    return [parameter for parameter, _ in pairs]


def learn(setting: Setting, guard: Guard, found: Pairs) -> None:
    """Adds the gradients of a step, which have the scale of the grad scaler, to the mean."""
    if setting.mean is None:
        return
    parameters, gradients = zip(*found, strict=True)
    if guard.factor is not None:
        inverse = 1 / guard.factor
        gradients = tuple(gradient * inverse.to(gradient.device) for gradient in gradients)
    whole = map(setting.world.placement.as_gradient, gradients, parameters)
    names = [setting.partition.names[id(parameter)] for parameter in parameters]
    setting.journal.note(partial(setattr, setting.mean, "values", setting.mean.values))
    setting.mean.learn(dict(zip(names, whole, strict=True)))


def accumulate(setting: Setting, pairs: Pairs) -> None:
    """Adds gradients to ``.grad`` as ``Tensor.backward`` does; the journal undoes it.

    A ``.grad`` keeps its identity, unless it cannot be written to.
    """
    placement, journal = setting.world.placement, setting.journal
    made: list[tuple[Parameter, Tensor]] = []
    sums, terms = [], []
    for parameter, gradient in pairs:
        before = parameter.grad
        if before is not None and _is_writable(before):
            sums.append(before)
            terms.append(gradient)
            continue
        whole = placement.as_gradient(gradient, parameter)
        made.append((parameter, whole if before is None else whole + before.detach()))
    _replace(setting, made)
    if sums:
        live = [shard.detach() for shard in shards(sums)]
        copies = [tensor.clone() for tensor in live]
        journal.note(partial(torch._foreach_copy_, live, copies))
        torch._foreach_add_(live, terms)


def overflow(setting: Setting, parameters: Sequence[Parameter]) -> None:
    """Sets infinite gradients, so that the grad scaler detects the overflow."""
    _replace(
        setting, [(parameter, torch.full_like(parameter, torch.inf)) for parameter in parameters]
    )


def trainable(setting: Setting) -> list[Parameter]:
    """Returns the parameters that a step gives a gradient to."""
    partition = setting.partition
    parameters = [*partition.shared, *(p for own in partition.own.values() for p in own)]
    return [p for p in [*parameters, *setting.combiner.parameters] if p.requires_grad]


def call_hooks(journal: Journal, parameters: Sequence[Parameter]) -> None:
    """Calls the hooks of ``register_post_accumulate_grad_hook``, as ``Tensor.backward`` does."""
    hooked = [parameter for parameter in parameters if parameter._post_accumulate_grad_hooks]
    if not hooked:
        return
    set_grad, enabled = torch.set_grad_enabled, torch.is_grad_enabled()
    with journal.during(partial(set_grad, False), partial(set_grad, enabled)):
        for parameter in hooked:
            for hook in tuple(parameter._post_accumulate_grad_hooks.values()):
                hook(parameter)


def _replace(setting: Setting, made: Sequence[tuple[Parameter, Tensor]]) -> None:
    """Sets ``.grad`` to new tensors."""
    before = [(parameter, parameter.grad) for parameter, _ in made]
    setting.journal.note(partial(_set, before))
    _set(made)


def _set(gradients: Sequence[tuple[Parameter, Tensor | None]]) -> None:
    for parameter, gradient in gradients:
        parameter.grad = gradient


def _is_writable(gradient: Tensor) -> bool:
    """Whether a dense tensor can be added to it in place: it is not sparse, and not expanded."""
    return gradient.layout == torch.strided and not any(
        step == 0 and size > 1 for step, size in zip(gradient.stride(), gradient.shape, strict=True)
    )
