"""A step that fails: the exception keeps its type, ``.grad`` is unchanged, nothing is learnt."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import Aggregator

import samo
from samo import aggregation
from samo.perturbations import LocalGradient
from tests.engine.test_interrupts import PRESETS, TASKS, equal, fixed, gradients, noisy, plain


class Ended(StopIteration):
    """An exception whose type a generator would change."""


def learnt(engine: samo.Engine) -> dict[str, Any]:
    return {key: value for key, value in engine.state_dict().items() if key != "partition"}


def clear(model: nn.Module, engine: samo.Engine) -> None:
    model.zero_grad()
    engine.aggregator.zero_grad()


def fail(*_: Any) -> None:
    raise Ended("here")


# Learning


ENGINES: dict[str, Callable[..., samo.Engine]] = {
    "ERM": samo.ERM,
    "GSAM": partial(samo.GSAM, rho=0.1, rho_own=0.0),
    "SAMO": partial(samo.SAMO, rho=0.1),
    "FMTL": partial(samo.FMTL, rho=0.1),
}
METHODS = [name for name in aggregation.available() if aggregation.describe(name).min_tasks <= 2]
CASES = [
    (name, preset)
    for name in METHODS
    for preset in (["GSAM"] if name == "fair-rise" else ["ERM", "SAMO", "FMTL"])
]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_method_that_fails_has_learnt_nothing(name, preset):
    """It fails at the end of its own computation, when all of its state has changed."""
    model = plain().double()
    options = {"weights": torch.ones(2)} if name == "constant" else {}
    method = aggregation.create(name, 2, **options)
    engine = ENGINES[preset](model, TASKS, aggregator=method)
    engine.backward(model.losses)
    clear(model, engine)
    state = learnt(engine)
    hooks = [part.register_forward_hook(fail) for part in method.modules()]
    other, spare = copy.deepcopy((model, engine))
    for part in spare.aggregator.modules():
        part._forward_hooks.clear()
    try:
        engine.backward(model.losses)
    except Ended:
        assert equal(learnt(engine), state)
        for hook in hooks:
            hook.remove()
        one, two = engine.backward(model.losses), spare.backward(other.losses)
        assert equal([one.losses, one.weights], [two.losses, two.weights])
        assert equal(gradients(model, engine), gradients(other, spare))
    else:  # its weights are constant: it is not called
        assert engine.aggregator.__class__.__name__ in {"Sum", "Mean"}


class InPlace(Aggregator):
    """Keeps state in all the ways that a method may: each call changes all of it in place."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.register_buffer("mean", torch.zeros(2))
        self.attribute = torch.zeros(3)
        self.counts = {"calls": 0}
        self.history: list[float] = []
        self.generator = torch.Generator().manual_seed(3)
        self.scale = torch.ones(2, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.scale], lr=0.1, momentum=0.9)

    mean: Tensor

    def forward(self, matrix: Tensor) -> Tensor:
        norms = matrix.norm(dim=1)
        self.mean.lerp_(norms.to(self.mean), 0.5)
        self.attribute += 1
        self.counts["calls"] += 1
        self.history.append(float(norms[0]))
        self.optimizer.zero_grad()
        (self.scale * norms.to(self.scale)).sum().backward()
        self.optimizer.step()
        noise = torch.rand(2, generator=self.generator).to(matrix)
        if self.fails:
            raise Ended
        return (noise + self.scale.detach().to(matrix)) @ matrix


@pytest.mark.parametrize("preset", ENGINES)
def test_a_method_of_the_users_own_has_learnt_nothing(preset):
    model = plain().double()
    method: Any = InPlace()
    engine = ENGINES[preset](model, TASKS, aggregator=method)
    engine.backward(model.losses)
    clear(model, engine)
    other, spare = copy.deepcopy((model, engine))
    state = learnt(engine)
    method.fails = True
    with pytest.raises(Ended):
        engine.backward(model.losses)
    method.fails = False
    assert equal(learnt(engine), state)
    for _ in range(2):
        engine.backward(model.losses)
        spare.backward(other.losses)
    assert equal(gradients(model, engine), gradients(other, spare))


class Remembering(LocalGradient):
    """An estimator that fails as it remembers the second task's gradient."""

    remembers, stateful = True, True

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.fails = False

    def estimate(self, probe: Any) -> Any:
        return probe.mean.layout.copy_of(probe.mean.tensors)

    def remember(self, task: str, gradient: Mapping[str, Tensor]) -> None:
        if self.fails and task == TASKS[1]:
            raise Ended
        self.known[task] = dict(gradient)

    def state_dict(self) -> dict[str, Any]:
        return {"known": dict(self.known)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.known = dict(state["known"])


def test_an_exception_after_grad_is_written_takes_it_back():
    model = noisy().double()
    engine = samo.SAMO(model, TASKS, aggregator="moco", rho=0.1, local=Remembering())
    engine.backward(model.losses)
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            parameter.grad = None
    estimator: Any = engine.perturbation.local  # type: ignore[union-attr]
    before, state, known = gradients(model, engine), learnt(engine), dict(estimator.known)
    estimator.fails = True
    with pytest.raises(Ended):
        engine.backward(model.losses)
    assert equal(gradients(model, engine), before)
    assert equal(learnt(engine), state)
    assert estimator.known == known


# Gradients


def sparse(parameter: nn.Parameter) -> Tensor:
    return torch.ones_like(parameter).to_sparse()


def expanded(parameter: nn.Parameter) -> Tensor:
    return parameter.new_ones(1).expand(parameter.shape)


def strided(parameter: nn.Parameter) -> Tensor:
    return parameter.new_ones(*parameter.shape, 2)[..., 0]


def with_graph(parameter: nn.Parameter) -> Tensor:
    return torch.ones_like(parameter, requires_grad=True) * 1


@pytest.mark.parametrize("make", [sparse, expanded, strided, with_graph])
@pytest.mark.parametrize("preset", ["ERM", "SAMO"])
def test_gradients_are_added_to_any_grad(make, preset):
    model = plain().double()
    engine = PRESETS[preset](model)
    other, spare = copy.deepcopy((model, engine))
    spare.backward(other.losses)
    weight = model.heads["b"].weight
    weight.grad = make(weight)
    kept = weight.grad
    engine.backward(model.losses)
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        plus = 1 if name == "heads.b.weight" else 0
        assert its.grad is not None
        torch.testing.assert_close(mine.grad, its.grad + plus, rtol=0, atol=1e-12)
    assert (weight.grad is kept) == (make not in (sparse, expanded))


def test_gradients_that_share_memory_are_added_as_backward_adds_them():
    model = plain().double()
    engine = samo.ERM(model, TASKS, aggregator="ls")
    heads = [model.get_parameter(f"heads.{task}.weight") for task in TASKS]
    shared = torch.zeros_like(heads[0])
    heads[0].grad = heads[1].grad = shared
    engine.backward(model.losses)
    found = shared.clone()
    shared.zero_()
    sum(model.losses(TASKS).values()).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(found, shared, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_hooks_after_accumulation_are_called_once_when_all_is_written(preset):
    model = plain().double()
    engine = PRESETS[preset](model)
    engine.backward(model.losses)
    clear(model, engine)
    other, spare = copy.deepcopy((model, engine))
    spare.backward(other.losses)
    calls: list[str] = []

    def step(parameter: nn.Parameter) -> None:
        """What an optimizer in the backward pass does."""
        assert not torch.is_grad_enabled()
        assert parameter.grad is not None
        names = {id(p): name for name, p in model.named_parameters()}
        calls.append(names[id(parameter)])
        parameter.sub_(parameter.grad)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine.backward(model.losses)
    assert sorted(calls) == sorted(before)
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        assert mine.grad is None
        assert its.grad is not None
        torch.testing.assert_close(mine, before[name] - its.grad, rtol=0, atol=0)


def test_an_exception_in_a_hook_leaves_the_gradients():
    model = plain().double()
    engine = samo.ERM(model, TASKS, aggregator="ls")
    model.get_parameter("trunk.0.weight").register_post_accumulate_grad_hook(fail)
    with pytest.raises(Ended):
        engine.backward(model.losses)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    with pytest.raises(Ended):
        engine.backward(model.losses)


# Types


@pytest.mark.parametrize("error", [Ended, GeneratorExit, StopAsyncIteration, KeyError])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_exception_of_the_closure_keeps_its_type(preset, error):
    """At each call in turn, and it is the same object."""
    model = noisy().double()
    engine = PRESETS[preset](model)
    engine.backward(model.losses)
    kept = fixed(model)
    for at in range(1, count(preset) + 1):
        calls, raised = itertools.count(1), error("no more batches")

        def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
            if next(calls) == at:  # noqa: B023
                raise raised  # noqa: B023
            return model.losses(tasks)

        with pytest.raises(error) as caught:
            engine.backward(losses)
        assert caught.value is raised
        assert equal(fixed(model), kept)


@cache
def count(preset: str) -> int:
    """How often a step calls the closure."""
    model, calls = noisy().double(), 0
    engine = PRESETS[preset](model)
    engine.backward(model.losses)

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return model.losses(tasks)

    engine.backward(losses)
    return calls


@pytest.mark.parametrize("preset", ["LSAM", "SAMO", "MSAM", "representation"])
def test_an_exception_of_a_module_keeps_its_type(preset):
    model = noisy().double()
    engine = PRESETS[preset](model)
    engine.backward(model.losses)
    kept = fixed(model)
    with pytest.raises(Ended):
        engine.backward(wrapped(model))
    assert equal(fixed(model), kept)


class Failing(torch.autograd.Function):
    """The identity, whose backward pass fails."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise Ended


def wrapped(model: Any) -> Any:
    return lambda tasks: {t: Failing.apply(loss) for t, loss in model.losses(tasks).items()}


def test_autocast_is_as_before_an_exception():
    model = plain()
    engine = samo.GSAM(model, TASKS, aggregator="ls", rho=0.1)
    seen = []

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        seen.append(torch.is_autocast_enabled("cpu"))
        if len(seen) == 2:
            raise Ended
        h = model.trunk(torch.ones(2, 3))
        return {task: model.heads[task](h).float().square().mean() for task in tasks}

    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(Ended):
            engine.backward(losses)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        engine.backward(losses)
        assert torch.is_autocast_enabled("cpu")
    assert all(seen)
    assert not torch.is_autocast_enabled("cpu")


# Re-entry


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_within_a_step_is_refused(preset, at):
    model = noisy().double()
    engine = PRESETS[preset](model)
    engine.backward(model.losses)
    kept, state, before, calls = fixed(model), learnt(engine), gradients(model, engine), 0

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == min(at, count(preset)):
            engine.backward(model.losses)
        return model.losses(tasks)

    with pytest.raises(RuntimeError, match="A step of this engine is in progress"):
        engine.backward(losses)
    assert equal(fixed(model), kept)
    assert equal(learnt(engine), state)
    assert equal(gradients(model, engine), before)
    engine.backward(model.losses)


def test_a_step_in_another_thread_is_refused():
    model = plain().double()
    engine = samo.GSAM(model, TASKS, aggregator="ls", rho=0.1)
    found: list[BaseException] = []

    def other() -> None:
        try:
            engine.backward(model.losses)
        except RuntimeError as error:
            found.append(error)

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return model.losses(tasks)

    engine.backward(losses)
    assert len(found) == 2
