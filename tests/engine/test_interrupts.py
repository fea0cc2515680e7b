"""An interrupt at any line of a step leaves what an interrupted plain pass leaves, and no more."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.autograd.grad_mode
import torch.utils.hooks
from torch import Tensor, nn

import samo

ROOT = str(Path(samo.__file__).parent)
# Parts of the libraries that change something on behalf of the engine.
AROUND = {
    contextlib.__file__,
    torch.utils.hooks.__file__,
    torch.autograd.grad_mode.__file__,
}
TASKS = ("a", "b")
X = torch.linspace(-2, 2, 18, dtype=torch.float64).view(6, 3).cos()
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class Small(nn.Module):
    """A trunk, a branch and two heads."""

    def __init__(self, trunk: nn.Module, branch: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk, self.branch, self.heads = trunk, branch, nn.ModuleDict(heads)

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.trunk(X)
        found: dict[Any, Any] = {}
        for task in tasks:
            out = self.heads[task](self.branch(h) if task == "b" else h)
            found[task] = (out - len(found)).square().mean()
        return found


class Closure:
    """The losses of a model; knows whether the natural pass has begun, and whether it has ended."""

    def __init__(self, model: Small, fails_at: int = 0) -> None:
        self.model, self.fails_at = model, fails_at
        self.begun = self.ended = self.failed_at = 0
        self.planted: Planted | None = None

    def __call__(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        self.begun += 1
        losses = self.model.losses(tasks)
        self.ended += 1
        if self.ended == self.fails_at:
            self.failed_at = len(self.planted.lines) if self.planted else 0
            raise StopIteration("no more")
        return losses


def plain() -> Small:
    heads = {task: nn.Linear(4, 2) for task in TASKS}
    return Small(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Identity(), heads)


def noisy() -> Small:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh())
    heads = {task: nn.Sequential(nn.Dropout(0.2), nn.Linear(4, 2)) for task in TASKS}
    return Small(trunk, nn.Identity(), heads)


def tied() -> Small:
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    branch = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    branch[0].weight = trunk[2].weight
    return Small(trunk, branch, {task: nn.Linear(4, 2) for task in TASKS})


MODELS = {"plain": plain, "noisy": noisy, "tied": tied}
PRESETS: dict[str, Callable[[nn.Module], samo.Engine]] = {
    "ERM": lambda m: samo.ERM(m, TASKS, aggregator="ls"),
    "ERM, learning": lambda m: samo.ERM(m, TASKS, aggregator="uw"),
    "ERM, moco": lambda m: samo.ERM(m, TASKS, aggregator="moco"),
    "GSAM": lambda m: samo.GSAM(m, TASKS, aggregator="mgda", rho=0.1),
    "heads": lambda m: samo.GSAM(m, TASKS, aggregator="ls", rho=0.0, rho_own=0.1),
    "LSAM": lambda m: samo.LSAM(m, TASKS, aggregator="mgda", rho=0.1),
    "FMTL": lambda m: samo.FMTL(m, TASKS, aggregator="gradvac", rho=0.1),
    "SAMO": lambda m: samo.SAMO(m, TASKS, aggregator="rlw", rho=0.1),
    "MSAM": lambda m: samo.MSAM(m, TASKS, aggregator="ls", rho=0.1),
    "previous": lambda m: samo.SAMO(
        m, TASKS, aggregator="mgda", rho=0.1, local=samo.PreviousGradient()
    ),
    "representation": lambda m: samo.GSAM(
        m, TASKS, aggregator="mgda", rho=0.1, level="representation"
    ),
}
CASES = [(preset, name) for preset in PRESETS for name in MODELS]


def copies(preset: str, name: str) -> tuple[Small, samo.Engine]:
    """A model and an engine that has taken a step; every second parameter has a ``.grad``."""
    model, engine = copy.deepcopy(trained(preset, name))
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.full_like(parameter, 0.7)
    return model, engine


@cache
def trained(preset: str, name: str) -> tuple[Small, samo.Engine]:
    torch.manual_seed(3)
    model = MODELS[name]().double()
    engine = PRESETS[preset](model)
    engine.backward(model.losses)
    return model, engine


def outside(model: nn.Module) -> dict[str, Any]:
    """The buffers, and the random state."""
    found = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {**found, "random state": torch.get_rng_state()}


def fixed(model: nn.Module) -> dict[str, Any]:
    """What no step changes."""
    found: dict[str, Any] = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        found[f"{name} is trainable"] = parameter.requires_grad
        found[f"{name} is"] = id(parameter)
    for name, module in model.named_modules():
        found[f"{name} trains"] = module.training
        found[f"{name} hooks"] = [len(getattr(module, hooks)) for hooks in HOOKS]
        found[f"{name} buffers"] = [*map(id, module._buffers.values())]
    return {**found, "grad mode": torch.is_grad_enabled()}


def gradients(model: nn.Module, engine: samo.Engine) -> dict[str, Tensor | None]:
    named = [*model.named_parameters(), *engine.aggregator.named_parameters(prefix="method")]
    return {name: None if p.grad is None else p.grad.clone() for name, p in named}


def equal(one: Any, two: Any) -> bool:
    """Whether two values are equal, bit for bit."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(type(one) is type(two) and one == two)


class Planted:
    """Counts the lines that a step executes, and raises at one of them."""

    def __init__(self, closure: Closure, at: int | None = None) -> None:
        self.closure, self.at = closure, at
        self.lines: list[tuple[str, int]] = []
        self.place: tuple[str, int] | None = None
        self.left: dict[str, Any] | None = None  # by a natural pass that is interrupted

    def __enter__(self) -> Planted:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, _event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        return self._reached if file.startswith(ROOT) or file in AROUND else None

    def _reached(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event != "line":
            return self._reached
        self.lines.append((frame.f_code.co_filename, frame.f_lineno))
        if len(self.lines) - 1 == self.at:
            sys.settrace(None)
            self.place = self.lines[-1]
            if self.closure.begun == 1 and self.closure.ended == 0:
                self.left = outside(self.closure.model)
            raise KeyboardInterrupt
        return self._reached


@cache
def uninterrupted(preset: str, name: str) -> dict[str, Any]:
    """A step without an interrupt: its lines, and what is left after it."""
    model, engine = copies(preset, name)
    torch.manual_seed(4)
    closure = Closure(model)
    with Planted(closure) as planted:
        engine.backward(closure)
    after = {"outside": outside(model), "gradients": gradients(model, engine)}
    return {**after, "lines": planted.lines, "state": engine.state_dict()}


def places(preset: str, name: str) -> list[int]:
    """The first and the last time that a step executes each line."""
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for number, line in enumerate(uninterrupted(preset, name)["lines"]):
        first.setdefault(line, number)
        last[line] = number
    return sorted({*first.values(), *last.values()})


def check(preset: str, name: str, at: int) -> None:
    wanted = uninterrupted(preset, name)
    model, engine = copies(preset, name)
    torch.manual_seed(4)
    before, kept, state = outside(model), fixed(model), engine.state_dict()
    grads, identities = gradients(model, engine), [id(p.grad) for p in model.parameters()]
    closure = Closure(model)
    try:
        with Planted(closure, at) as planted:
            engine.backward(closure)
    except KeyboardInterrupt as error:
        held = error  # with its traceback, whose frames hold all that is suspended
    assert isinstance(held, KeyboardInterrupt)
    place = planted.place
    assert equal(fixed(model), kept), place
    left = planted.left or (wanted["outside"] if closure.begun else before)
    assert equal(outside(model), left), place
    found, written = gradients(model, engine), False
    if not equal(found, grads):
        written = True
        assert equal(found, wanted["gradients"]), place
    assert equal(engine.state_dict(), wanted["state"] if written else state), place
    for identity, parameter in zip(identities, model.parameters(), strict=True):
        assert identity in (id(None), id(parameter.grad)), place
    # The next step is that of an engine that was not interrupted.
    other, fresh = copies(preset, name)
    if written:
        torch.manual_seed(4)
        fresh.backward(other.losses)
    for mine, its in zip(model.buffers(), other.buffers(), strict=True):
        its.copy_(mine)
    results = []
    for one, made in ((model, engine), (other, fresh)):
        torch.manual_seed(5)
        result = made.backward(one.losses)
        results.append([result.losses, result.weights, gradients(one, made), made.state_dict()])
    assert equal(*results), place


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_at_some_lines(preset, name):
    """In all cases together, at many different lines."""
    found = places(preset, name)
    case, count = CASES.index((preset, name)), 12
    for number in range(count):
        check(preset, name, found[(number * len(found) + case * 7) // count % len(found)])


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "name"), CASES)
def test_at_every_line(preset, name):
    for at in places(preset, name):
        check(preset, name, at)


@pytest.mark.parametrize("preset", ["GSAM", "SAMO", "MSAM", "representation"])
def test_at_lines_that_undo_a_step_which_has_failed(preset):
    """The closure fails in its last call; then an interrupt arrives while this is undone."""
    model, engine = copies(preset, "noisy")
    torch.manual_seed(4)
    closure = Closure(model)
    engine.backward(closure)
    last = closure.ended
    starts: list[int] = []

    def attempt(at: int | None) -> Planted:
        model, engine = copies(preset, "noisy")
        torch.manual_seed(4)
        kept, state, grads = fixed(model), engine.state_dict(), gradients(model, engine)
        closure = Closure(model, fails_at=last)
        with Planted(closure, at) as it:
            closure.planted = it
            with pytest.raises((StopIteration, KeyboardInterrupt)) as caught:
                engine.backward(closure)
        assert caught.type is (StopIteration if at is None else KeyboardInterrupt)
        starts.append(closure.failed_at)
        assert equal(fixed(model), kept), it.place
        # An interrupt in the only pass leaves what that pass has changed, in any case.
        assert equal(outside(model), uninterrupted(preset, "noisy")["outside"]) or last == 1
        assert equal(engine.state_dict(), state), it.place
        assert equal(gradients(model, engine), grads), it.place
        return it

    count = len(attempt(None).lines)
    assert count - starts[0] > 20
    for at in range(starts[0], count, 1 + (count - starts[0]) // 40):
        attempt(at)
