"""Half precision: autocast, scalers whose steps overflow, and what a run comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_

import samo
from tests.problems import TASKS
from tests.tools import Heads, close, gradients, same

PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "msam": (samo.MSAM, {}),
    "heads": (samo.GSAM, {"rho": 0.0, "rho_own": 0.05}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
    "erm, z": (samo.ERM, {"level": "representation"}),
    "gsam, z": (samo.GSAM, {"level": "representation"}),
}


class Line(nn.Module):
    """l_i = 3 Σ x + y_i, at any point: the gradients add up to more than each."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2))
        self.y = nn.ParameterDict({task: nn.Parameter(torch.zeros(1)) for task in TASKS})

    def losses(self, tasks: Sequence[str]) -> dict[str, Any]:
        return {task: 3 * self.x.sum() + self.y[task].sum() for task in tasks}


@pytest.mark.parametrize("aggregator", ["pcgrad", "gradvac", "graddrop"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_last_multiplication_overflows(preset: str, aggregator: str) -> None:
    """Each task's gradient times the scale is finite, and so is their sum; not that times it."""
    make, options = PRESETS[preset]
    model = Line()
    engine = make(model, TASKS, aggregator=aggregator, **options)
    scaler: Any = GradScaler("cpu", init_scale=2.0**126)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before, sums = repr(engine.state_dict()["aggregator"]), engine.state_dict()["streams"]
    result = engine.backward(model.losses, grad_scaler=scaler)
    assert result.overflowed
    assert model.x.grad is not None
    assert not model.x.grad.isfinite().any()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**125
    assert not any(p.detach().any() for p in model.parameters())
    assert repr(engine.state_dict()["aggregator"]) == before
    assert repr(engine.state_dict()["streams"]) in (repr(sums), repr(sums | {"states": {}}))
    scaler.update(2.0**120)
    optimizer.zero_grad()
    assert not engine.backward(model.losses, grad_scaler=scaler).overflowed


def test_what_no_norm_can_hold_is_no_overflow() -> None:
    """Squares of 1e30 are infinite in float32; the gradients themselves are not."""
    model = Line()
    scaler = GradScaler("cpu", init_scale=2.0**100)
    result = samo.GSAM(model, TASKS, aggregator="mgda").backward(model.losses, grad_scaler=scaler)
    assert not result.overflowed
    assert model.x.grad is not None
    assert (model.x.grad >= 2.0**100).all()


class Run:
    """A run in one precision, whose evaluations are faulty in some steps."""

    def __init__(self, preset: str, aggregator: str, dtype: torch.dtype | None) -> None:
        make, options = PRESETS[preset]
        torch.manual_seed(5)
        layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()]
        self.model = Heads(nn.Sequential(*layers))
        self.dtype = dtype
        self.engine = make(self.model, TASKS, aggregator=aggregator, **options)
        learnt = list(self.engine.aggregator.parameters()) if aggregator == "uw" else []
        self.optimizer = torch.optim.SGD([*self.model.parameters(), *learnt], 0.05, momentum=0.9)
        self.scaler: Any = GradScaler("cpu", init_scale=2.0**12)

    def step(self, x: torch.Tensor, fault: str | None = None) -> bool:
        """One step, with the loss of task b infinite in the natural or the perturbed pass."""
        calls = 0

        def losses(tasks: Sequence[str]) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            here = "natural" if calls == 1 else "perturbed"
            half = nullcontext() if self.dtype is None else torch.autocast("cpu", self.dtype)
            with half:
                found = self.model.losses(tasks, x)
            wrong = here == fault and torch.is_grad_enabled()
            by = {task: torch.inf if wrong and task == "b" else 1.0 for task in tasks}
            return {task: loss.float() * by[task] for task, loss in found.items()}

        self.optimizer.zero_grad()
        result = self.engine.backward(losses, grad_scaler=self.scaler)
        self.scaler.unscale_(self.optimizer)
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return bool(result.overflowed)

    def train(self, faults: Mapping[int, Sequence[str]]) -> dict[str, Any]:
        """Six steps, before some of which there are faulty ones; what they led to."""
        generator = torch.Generator().manual_seed(1)
        batches = torch.randn(6, 8, 4, generator=generator)
        for number, x in enumerate(batches):
            for fault in faults.get(number, ()):
                scale = self.scaler.get_scale()
                assert self.step(x.flip(0) * 2, fault)
                assert self.scaler.get_scale() == scale / 2
            assert not self.step(x)
        values = {name: p.detach() for name, p in self.model.named_parameters()}
        numbers = enumerate(self.engine.aggregator.parameters())
        return values | {f"method {i}": p.detach() for i, p in numbers}


# What a step leaves behind is each method's own affair and each preset's own: two of each other are
# enough for every one of them.
OVERFLOWING = ["uw", "famo", "gradvac", "pcgrad", "db-mtl"]
TWO_OF_EACH = [
    (preset, OVERFLOWING[(i + shift) % len(OVERFLOWING)])
    for i, preset in enumerate(PRESETS)
    for shift in (0, 2)
    if not (preset == "erm, z" and shift == 2)  # db-mtl compares gradients of different steps
]


@pytest.mark.parametrize(("preset", "aggregator"), TWO_OF_EACH)
def test_a_run_without_the_steps_that_overflow(preset: str, aggregator: str) -> None:
    """It ends at the same parameters, bit for bit: the method's state and all draws included."""
    second = "natural" if preset in ("erm", "msam", "erm, z") else "perturbed"
    faulty = Run(preset, aggregator, None).train({0: [second], 2: ["natural", second], 5: [second]})
    same(faulty, Run(preset, aggregator, None).train({}))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_in_float16(preset: str) -> None:
    """Under autocast: but for what a smaller scale rounds differently."""
    second = "natural" if preset in ("erm", "msam", "erm, z") else "perturbed"
    faults = {1: [second], 3: ["natural", second]}
    faulty = Run(preset, "upgrad", torch.float16).train(faults)
    close(faulty, Run(preset, "upgrad", torch.float16).train({}), 2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("preset", PRESETS)
def test_autocast_is_near_float32(preset: str, dtype: torch.dtype) -> None:
    """Gradients in half precision point where those in full precision do."""
    x, seen = torch.linspace(-2, 2, 28).view(7, 4).sin(), []
    for precision in (None, dtype):
        run = Run(preset, "mgda", precision)
        run.optimizer = torch.optim.SGD(run.model.parameters(), 0.0)
        assert not run.step(x)
        seen.append(torch.cat([g.flatten() for g in gradients(run.model).values()]))
    assert torch.cosine_similarity(seen[0], seen[1], dim=0) > 0.99


@pytest.mark.parametrize("preset", PRESETS)
def test_a_scale_that_is_too_large_is_found_out(preset: str) -> None:
    """float16 itself overflows: steps are skipped, each with half of the scale, until it fits."""
    run = Run(preset, "ls", torch.float16)
    run.scaler = GradScaler("cpu", init_scale=2.0**24)
    x = torch.linspace(-2, 2, 28).view(7, 4).sin()
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    skipped = 0
    while run.step(x):
        skipped += 1
        assert run.scaler.get_scale() == 2.0 ** (24 - skipped)
        same({name: p.detach() for name, p in run.model.named_parameters()}, before)
    assert 2 < skipped < 22
    assert not any(run.step(x) for _ in range(3))
