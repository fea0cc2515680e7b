"""With a GradScaler: scaled gradients, the same run as without, and steps that overflow."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_

import samo
from tests.problems import TASKS
from tests.tools import Heads, gradients, same

PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "msam": (samo.MSAM, {}),
    "heads": (samo.GSAM, {"rho": 0.0, "rho_own": 0.05}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
    "previous": (samo.SAMO, {"local": samo.PreviousGradient()}),
    "erm, z": (samo.ERM, {"level": "representation"}),
    "gsam, z": (samo.GSAM, {"level": "representation"}),
    "heads, z": (samo.GSAM, {"rho": 0.0, "rho_own": 0.05, "level": "representation"}),
}
X = torch.linspace(-2, 2, 28).view(7, 4).cos()


def model_with_buffers() -> Any:
    torch.manual_seed(5)
    # A bias before BatchNorm has gradients of rounding errors alone, which Adam makes large.
    layers = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh()
    model: Any = Heads(nn.Sequential(*layers))
    model.unused = nn.Linear(2, 2)
    return model


class Training:
    """A model and what trains it, in float32, step by step."""

    def __init__(self, preset: str, aggregator: str, scale: float | None, backoff: float = 0.5):
        make, settings = PRESETS[preset]
        self.model = model_with_buffers()
        self.engine = make(self.model, TASKS, aggregator=aggregator, **settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        own = list(self.engine.aggregator.parameters()) if aggregator == "uw" else []
        self.second = torch.optim.SGD(own, lr=0.01) if own else None
        self.scaler: Any = GradScaler(
            "cpu", init_scale=scale or 1.0, backoff_factor=backoff, enabled=scale is not None
        )
        self.calls = 0
        self.fault: str | None = None

    def losses(self, tasks):
        """Where there is a fault, one of the evaluations is not what it should be."""
        self.calls += 1
        losses = self.model.losses(tasks, X)
        kind = "natural" if self.calls == 1 else "perturbed"
        kind = kind if torch.is_grad_enabled() else "probe"
        if self.fault == kind and "b" in losses:
            losses["b"] = losses["b"] * torch.inf
        if self.fault == f"{kind} gradient" and "b" in losses:
            weight = self.model.trunk[0].weight
            losses["b"] = losses["b"] + (weight - weight.detach()).square().sum().sqrt()
        return losses

    def step(self, fault=None, clip=False):
        self.calls, self.fault = 0, fault
        self.optimizer.zero_grad()
        if self.second is not None:
            self.second.zero_grad()
        result = self.engine.backward(self.losses, grad_scaler=self.scaler)
        for optimizer in filter(None, (self.optimizer, self.second)):
            if clip and optimizer is self.optimizer:
                self.scaler.unscale_(optimizer)
                clip_grad_norm_(self.model.parameters(), 0.5)
            self.scaler.step(optimizer)
        self.scaler.update()
        return result

    def parameters(self):
        """All that the optimizers change, and what they keep."""
        values: dict[Any, Any] = {n: p.detach() for n, p in self.model.named_parameters()}
        for number, parameter in enumerate(self.engine.aggregator.parameters()):
            values["method", number] = parameter.detach()
        for number, state in self.optimizer.state_dict()["state"].items():
            values |= {(number, name): value for name, value in state.items()}
        return values

    def remembered(self):
        """What engine and aggregator have learnt, without the random numbers used up."""
        state = self.engine.state_dict()
        return repr({name: state[name] for name in state if name != "streams"})


@pytest.mark.parametrize("scale", [1024.0, 3000.0])
@pytest.mark.parametrize("aggregator", ["uw", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_are_scaled(preset, aggregator, scale):
    """All gradients are those without a scaler, times the scale; what is reported is not scaled."""
    plain, scaled = (Training(preset, aggregator, s) for s in (None, scale))
    seen = []
    for training in (plain, scaled):
        training.calls = 0
        result = training.engine.backward(training.losses, grad_scaler=training.scaler)
        grads = gradients(training.model)
        for number, parameter in enumerate(training.engine.aggregator.parameters()):
            grads[f"method {number}"] = parameter.grad
        seen.append((grads, result))
    assert not any(result.overflowed for _, result in seen)
    assert seen[0][0]["unused.weight"] is None
    for name, gradient in seen[0][0].items():
        got = seen[1][0][name]
        if gradient is None:
            assert got is None
            continue
        tolerance = 0.0 if scale == 1024 else 2e-4  # nothing is rounded by a power of two
        wanted = gradient * scale
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance * scale / 10)
    for field in ("losses", "perturbed_losses"):
        for task, loss in (getattr(seen[0][1], field) or {}).items():
            torch.testing.assert_close(getattr(seen[1][1], field)[task], loss, rtol=1e-5, atol=1e-6)
    for field in ("gramian", "weights"):
        one, two = (getattr(result, field) for _, result in seen)
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("aggregator", ["uw", "upgrad"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_is_the_same_with_and_without(preset, aggregator):
    """Unscaling, clipping, stepping and updating lead where the run without a scaler leads."""
    runs = []
    for scale in (None, 2.0**14):
        training = Training(preset, aggregator, scale)
        for _ in range(4):
            training.step(clip=True)
        runs.append(dict(training.model.state_dict()))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaler", [None, GradScaler("cpu", enabled=False)])
def test_a_disabled_scaler_is_none(scaler):
    """It changes nothing, bit for bit, and a loss that is not finite is an error."""
    training, plain = Training("samo", "mgda", None), Training("samo", "mgda", None)
    training.engine.backward(training.losses, grad_scaler=scaler)
    plain.engine.backward(plain.losses)
    same(gradients(training.model), gradients(plain.model))
    training.calls, training.fault = 0, "natural"
    with pytest.raises(samo.NonFiniteError, match="natural loss of task 'b'"):
        training.engine.backward(training.losses, grad_scaler=scaler)
    same(gradients(training.model), gradients(plain.model))


FAULTS = ["natural", "natural gradient", "perturbed", "perturbed gradient", "probe"]
POSSIBLE = {"erm": FAULTS[:2], "msam": FAULTS[:2], "samo": FAULTS}
POSSIBLE["heads"] = [FAULTS[0], *FAULTS[2:4]]  # the fault is in a shared parameter
POSSIBLE |= {f"{preset}, z": POSSIBLE[preset] for preset in ("erm", "heads")}
OVERFLOWS = [(p, f, "dwa") for p in PRESETS for f in POSSIBLE.get(p, FAULTS[:4])]
METHODS = ("uw", "famo", "gradvac", "excess-mtl")
OVERFLOWS += [("previous", f, a) for f in FAULTS[1:4] for a in METHODS]
OVERFLOWS += [("gsam, z", f, "cr-mogm") for f in FAULTS[:4]]  # compares gradients, and learns


@pytest.mark.parametrize(("preset", "fault", "aggregator"), OVERFLOWS)
def test_overflow(preset, fault, aggregator):
    """The step is skipped, once; nothing is left of it but its natural pass; training goes on."""
    training = Training(preset, aggregator, 2.0**10)
    assert not training.step().overflowed
    training.engine.epoch_ended()
    before = copy.deepcopy(training.parameters())
    remembered, twin = training.remembered(), copy.deepcopy(training.model)
    result = training.step(fault)
    assert result.overflowed
    assert training.scaler.get_scale() == 2.0**9
    if preset != "msam":  # whose pass is at another point
        twin.losses(TASKS, X)
        same(dict(training.model.named_buffers()), dict(twin.named_buffers()))
    same(training.parameters(), before)
    assert all(p.grad is None for p in training.model.unused.parameters())
    assert training.remembered() == remembered
    assert not training.step().overflowed
    assert training.scaler.get_scale() == 2.0**9
    assert not torch.equal(training.model.trunk[0].weight, before["trunk.0.weight"])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_scale_itself_overflows(preset):
    """A scale that float32 gradients cannot carry is halved until they can."""
    training = Training(preset, "mgda", 2.0**127, backoff=2.0**-16)
    overflowed = [training.step().overflowed for _ in range(8)]
    assert overflowed[0]
    assert not overflowed[-1]
    assert overflowed == sorted(overflowed, reverse=True)
    assert training.scaler.get_scale() == 2.0 ** (127 - 16 * sum(overflowed))


def test_overflow_in_any_micro_batch():
    """One micro-batch that overflows makes the step one."""
    training = Training("previous", "uw", 2.0**10)
    training.step()
    remembered = training.remembered()
    bad = lambda tasks: {t: x * torch.nan for t, x in training.losses(tasks).items()}  # noqa: E731
    for closures in ([training.losses, bad], [bad, training.losses]):
        result = training.engine.backward(closures, grad_scaler=training.scaler)
        assert result.overflowed
        assert training.remembered() == remembered
