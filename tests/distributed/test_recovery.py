"""After a step that failed on one rank or on all, the next one is that of a run without failure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_leaves

import samo
from tests.distributed import cases
from tests.distributed.processes import RankFailure, all_well, on_ranks
from tests.tools import same

FORWARD = ["before", "unit", "root", "tail", "after"]
BACKWARD = ["head", "top", "low"]
AT: dict[str, Any] = {"level": "representation"}
ENGINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "GSAM": ("GSAM", "fairgrad", {}),
    "GSAM at the representation": ("GSAM", "upgrad", AT),
    "SAMO, learning": ("SAMO", "famo", {"local": samo.PreviousGradient()}),
}


class Failing(torch.autograd.Function):
    """The identity, whose backward pass calls a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Callable[[], object]) -> Tensor:
        ctx.call = call
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.call()
        return gradient, None


class Run:
    """An engine whose closure can be made to fail.

    Attributes:
        net: The model.
        engine: The engine.
        place: Where the closure fails: before, within or after the model's forward pass, or in a
            backward pass.
        at: The number of the call that fails.
    """

    def __init__(
        self, engine: str, wrapper: str, rank: int, size: int, group: ProcessGroup | None = None
    ) -> None:
        preset, method, options = ENGINES[engine]
        net: Any = cases.model()
        self.net = net
        self.place, self.at, self._calls = "", 0, 0
        self._model = cases.wrap(net, wrapper)
        trunk, heads = net.trunk, net.heads
        trunk[0].register_forward_hook(lambda *_: self._fail("unit"))
        trunk[2].register_forward_pre_hook(lambda *_: self._fail("root"))
        heads["c"].register_forward_hook(lambda *_: self._fail("tail"))
        for module, place in [(trunk[1], "low"), (trunk[3], "top"), (heads["b"], "head")]:
            module.register_forward_hook(self._guarded(place))
        self.engine = getattr(samo, preset)(
            self._model,
            cases.TASKS,
            aggregator=method,
            rho=0.1,
            process_group=group,
            **options,
        )
        x, y = cases.batch(0, size)
        self._x, self._y = x[rank::size], y[rank::size]

    def step(self, place: str = "", at: int = 0) -> str:
        """Takes a step; returns what the engine has raised."""
        self.place, self.at, self._calls = place, at, 0
        self.net.zero_grad()
        try:
            self.engine.backward(self._losses)
        except Exception as error:
            assert all(parameter.grad is None for parameter in self.net.parameters())
            return f"{type(error).__name__}: {error}"
        if self.engine.needs_losses_after_step:
            with torch.no_grad():
                self.engine.optimizer_stepped(self._losses(cases.TASKS))
            for unit in self._model.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()
        return "well"

    def state(self) -> dict[str, Tensor]:
        """What has to be equal: parameters, gradients, and numbers in the engine's state."""
        named = list(self.net.named_parameters())
        learnt = tree_leaves(self.engine.state_dict())
        numbers = [value for value in learnt if isinstance(value, Tensor | int | float)]
        return {
            **{name: cases._whole(parameter) for name, parameter in named},
            **{f"grad {n}": cases._whole(p.grad) for n, p in named if p.grad is not None},
            **{f"state {i}": torch.as_tensor(number) for i, number in enumerate(numbers)},
        }

    def _losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        self._calls += 1
        self._fail("before")
        found = cases.losses_of(self._model, self._x, self._y, tasks)
        self._fail("after")
        return found

    def _fail(self, place: str) -> None:
        if place == self.place and self._calls == self.at:
            raise LookupError(place)

    def _guarded(self, place: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda _, __, out: Failing.apply(out, lambda: self._fail(place))


def failures(rank: int, size: int, engines: Sequence[str]) -> dict[str, str]:
    """A step, one that fails, and another one, for each place where one may fail."""
    found = {}
    for engine, wrapper, alone in itertools.product(engines, cases.WRAPPERS, [True, False]):
        expected = Run(engine, wrapper, rank, size)
        assert [expected.step(), expected.step()] == ["well", "well"]
        # A rank that waits for another in a collective operation of FSDP cannot be reached.
        places = ["tail", "after"] if wrapper == "fsdp" and alone else [*FORWARD, *BACKWARD]
        for place, at in itertools.product(places, [1, 2]):
            run = Run(engine, wrapper, rank, size)
            assert run.step() == "well"
            before = run.state()
            fails = rank == 1 or not alone
            said = run.step(place if fails else "", at)
            if said == "well":
                continue  # this pass has no such place
            assert said.startswith("LookupError" if fails else "RankError: Another rank"), said
            after = run.state()
            same({n: v for n, v in before.items() if n in after}, after)
            assert run.step() == "well"
            same(run.state(), expected.state())
            found[f"{engine}, {wrapper}, {alone}, {place} {at}"] = said
    return found


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=[] if "level" in options else pytest.mark.slow)
        for name, (_, _, options) in ENGINES.items()
    ],
)
def test_the_step_after_a_failure(engine: str) -> None:
    zero, one = all_well(on_ranks(2, failures, [engine]))
    assert zero.keys() == one.keys()
    assert len(zero) > 60


def one_fails(rank: int, size: int, place: str) -> str:
    """Rank 1 fails where the other one waits for it in a collective operation of FSDP."""
    # In a group of its own, since gloo ends a process in which two kinds of operations meet.
    group = dist.new_group(timeout=timedelta(seconds=5))
    run = Run("GSAM", "fsdp", rank, size, group)
    assert run.step() == "well"
    said = run.step(place if rank == 1 else "", 1)
    raise SystemExit(said)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["unit", "low"])
def test_ranks_that_wait_for_each_other_are_told_to_end(place: str) -> None:
    for rank, said in enumerate(on_ranks(2, one_fails, place, timeout=5.0)):
        assert isinstance(said, RankFailure)
        assert f"RankError: Rank {rank} cannot reach another rank" in str(said)
        assert "end this process" in str(said)
