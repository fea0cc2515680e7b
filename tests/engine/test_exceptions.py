"""An exception anywhere in a step leaves no more behind than the natural pass does."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import samo
from tests.problems import TASKS, Multi, RunningScale, losses, problem
from tests.snapshots import Expected, identities, set_rng, values
from tests.tools import same

PRESETS = {
    "ERM": lambda model, **o: samo.ERM(model, TASKS, **o),
    "GSAM": lambda model, **o: samo.GSAM(model, TASKS, rho=0.1, **o),
    "heads": lambda model, **o: samo.GSAM(model, TASKS, rho=0.0, rho_own=0.1, **o),
    "LSAM": lambda model, **o: samo.LSAM(model, TASKS, rho=0.1, **o),
    "FMTL": lambda model, **o: samo.FMTL(model, TASKS, rho=0.1, **o),
    "SAMO": lambda model, **o: samo.SAMO(model, TASKS, rho=0.1, **o),
    "SAMO, previous": lambda model, **o: samo.SAMO(
        model, TASKS, rho=0.1, local=samo.PreviousGradient(), **o
    ),
    "ERM, z": lambda model, **o: samo.ERM(model, TASKS, level="representation", **o),
    "GSAM, z": lambda model, **o: samo.GSAM(model, TASKS, rho=0.1, level="representation", **o),
}
CALLS = {"ERM": 1, "GSAM": 2, "heads": 2, "LSAM": 4, "FMTL": 4, "SAMO": 10, "SAMO, previous": 4}
CALLS |= {"ERM, z": 1, "GSAM, z": 2}
ERRORS = [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError]


class Armed(torch.autograd.Function):
    """The identity, in whose backward pass a fuse burns."""

    @staticmethod
    def forward(ctx, x, fuse):
        ctx.fuse = fuse
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.fuse.burn("backward")
        return grad, None


class Fuse(nn.Module):
    """The identity, that raises at its n-th forward or backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: Counter[str] = Counter()
        self.blows: dict[str, int] = {}
        self.error: type[BaseException] = ZeroDivisionError

    def burn(self, what):
        self.passes[what] += 1
        if self.passes[what] - 1 == self.blows.get(what):
            raise self.error(what)

    def set(self, **blows):
        self.passes, self.blows = Counter(), blows

    def forward(self, x):
        self.burn("forward")
        return Armed.apply(x, self)


class Sabotaged:
    """A closure that raises at its n-th call, before or after the model was evaluated."""

    def __init__(self, model, at=-1, after=False, error=RuntimeError):
        self.model, self.at, self.after, self.error = model, at, after, error
        self.calls = 0
        self.identities: dict[str, int] = {}

    def __call__(self, tasks):
        self.calls += 1
        if self.calls - 1 == self.at and not self.after:
            raise self.error("before")
        out = losses(self.model, tasks)
        if self.calls == 1:
            self.identities = identities(self.model)
        if self.calls - 1 == self.at and self.after:
            raise self.error("after")
        return out


def trained(preset, name, aggregator):
    """A model with ``.grad`` in place, and an engine that has made one step on it."""
    model = problem(name).model
    engine = PRESETS[preset](model, aggregator=aggregator)
    engine.backward(lambda tasks: losses(model, tasks))
    model.get_submodule("trunk" if hasattr(model, "trunk") else "net").zero_grad()
    return model, engine


NAMES = [
    "batchnorm",
    "running",
    "dropout",
    "dropout_heads",
    "tied",
    "branches",
    "lstm",
    "transformer",
]
CASES = [
    (preset, name, ("ls", "mgda")[(i + j // 2) % 2])
    for i, preset in enumerate(PRESETS)
    for j, name in enumerate(NAMES)
    if (i + j) % 2
]


@pytest.mark.parametrize(("preset", "name", "aggregator"), CASES)
def test_after_an_exception_at_any_call_all_is_as_the_natural_pass_leaves_it(
    preset, name, aggregator
):
    """Before the model is evaluated in a call and after it, in turn; each is some model's turn."""
    model, engine = trained(preset, name, aggregator)
    calls, at, turn = 1, 0, NAMES.index(name) // 2
    while at < calls:
        after = (at + turn) % 2 == 0
        error = ERRORS[(at + after) % 3]
        natural = at > 0 or after
        expected = Expected(model, *[lambda m: losses(m, TASKS)] * natural)
        before, state = identities(model), engine.state_dict()
        closure = Sabotaged(model, at, after, error)
        with pytest.raises(error):
            engine.backward(closure)
        expected.check(model)
        assert identities(model) == (closure.identities if natural else before)
        # The next step is that of an engine which saw nothing: of the state that this one had
        # before, or has now where its own random numbers have been used by then.
        if preset == "SAMO" and at > 0:
            state = engine.state_dict()
        fresh = PRESETS[preset](expected.model, aggregator=aggregator)
        fresh.load_state_dict(state)
        closure = Sabotaged(model)
        engine.backward(closure)
        set_rng(expected.raw_rng)
        fresh.backward(partial(losses, expected.model))
        same(values(model), values(expected.model))
        calls, at = closure.calls, at + 1
    assert calls == CALLS[preset]


class Everything(nn.Module):
    """Buffers of several kinds and three kinds of random numbers, on both sides of a fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
        self.fuse = Fuse()
        self.two = nn.Sequential(RunningScale(4), nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, x):
        h = self.one(x) * (1 + random.random())
        return self.two(self.fuse(h)) * (1 + np.random.rand())  # noqa: NPY002


def everything():
    torch.manual_seed(2)
    return Multi(Everything()).double()


@pytest.mark.parametrize("what", ["forward", "backward"])
@pytest.mark.parametrize("preset", PRESETS)
def test_after_an_exception_inside_the_model_all_is_as_the_natural_pass_leaves_it(preset, what):
    """Where the natural pass itself is interrupted, its first part has been seen."""
    model, engine = everything(), None
    fuse = model.trunk.fuse
    for at in itertools.count():
        engine = PRESETS[preset](model, aggregator="mgda")
        fuse.error = ZeroDivisionError if what == "forward" else ERRORS[at % 3]
        fuse.set(**{what: at})
        expected = Expected(model, lambda m: losses(m, TASKS))
        try:
            engine.backward(lambda tasks: losses(model, tasks))
        except fuse.error:
            expected.check(model)
        else:
            expected.check(model, grad=False)
            break
    least = {"forward": CALLS[preset], "backward": 1}
    assert at >= least[what]


@pytest.mark.parametrize("preset", ["GSAM", "FMTL", "SAMO"])
def test_flags_that_a_closure_switches_for_a_while_are_as_the_natural_pass_leaves_them(preset):
    """As where it freezes a part, or asks a teacher in eval mode, and is interrupted meanwhile."""
    model = everything()
    fuse, head = model.trunk.fuse, model.heads["a"]

    def evaluate(model, tasks):
        part, head = model.trunk.two, model.heads["a"]
        part.eval()
        head.bias.requires_grad_(False)
        out = losses(model, tasks)
        part.train()
        head.bias.requires_grad_(True)
        return out

    for at in itertools.count(1):
        fuse.set(forward=at)
        expected = Expected(model, lambda m: evaluate(m, TASKS))
        try:
            PRESETS[preset](model, aggregator="mgda").backward(lambda t: evaluate(model, t))
        except ZeroDivisionError:
            assert head.bias.requires_grad
            assert model.trunk.two.training
            expected.check(model)
        else:
            break
    assert at == CALLS[preset]


@pytest.mark.parametrize("preset", ["ERM", "FMTL", "SAMO, previous"])
def test_an_exception_between_micro_batches_leaves_the_natural_passes_so_far(preset):
    model = everything()
    engine = PRESETS[preset](model, aggregator="mgda")
    engine.backward([lambda tasks: losses(model, tasks)] * 2)
    model.zero_grad()
    fuse = model.trunk.fuse
    calls = CALLS[preset]
    for at in range(2 * calls):
        fuse.set(forward=at)

        def natural(copied, at=at):
            copied.trunk.fuse.set(forward={0: 0, calls: 1}.get(at, -1))
            for _ in range(1 + (at >= calls)):
                losses(copied, TASKS)

        expected = Expected(model, natural)
        with pytest.raises(ZeroDivisionError):
            engine.backward([lambda tasks: losses(model, tasks)] * 2)
        expected.check(model)


def test_an_exception_while_the_partition_is_looked_for_leaves_nothing():
    """With micro-batches, all are evaluated once before the first step, to know what is shared."""
    model = everything()
    for at in range(2):
        model.trunk.fuse.set(forward=at)
        expected = Expected(model)
        with pytest.raises(ZeroDivisionError):
            samo.ERM(model, TASKS, aggregator="mgda").backward(
                [lambda tasks: losses(model, tasks)] * 2
            )
        expected.check(model)
