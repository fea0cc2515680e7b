"""Methods of the gradients that see the losses: what they are told, and what is done for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torchjd.aggregation import (
    Aggregator,
    CRMOGMWeighting,
    GramianWeightedAggregator,
    MGDAWeighting,
    Weighting,
)

import samo
from samo.aggregation import IMTL, ScaleFree, SeesLosses, combiner
from tests.tools import Quadratics

TASKS = ("a", "b", "c")


class Told(Weighting[Any], SeesLosses):
    """Weighs by the losses, scales own gradients by learnt factors, and notes what it is told."""

    def __init__(self, n_tasks: int = 3, silent: bool = False) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.arange(1.0, n_tasks + 1, dtype=torch.float64))
        self.silent = silent
        self.told: Tensor | None = None
        self.calls = 0

    def see_losses(self, losses: Tensor, /) -> Tensor | None:
        self.told = losses.detach().clone()
        self.calls += 1
        return None if self.silent else (self.factors * losses).sum()

    def forward(self, gramian: Tensor, /) -> Tensor:
        assert self.told is not None
        return self.told.to(gramian)


class ToldOfRows(Aggregator, SeesLosses):
    """The same of the matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Told()

    def see_losses(self, losses: Tensor, /) -> Tensor | None:
        return self.inner.see_losses(losses)

    def forward(self, matrix: Tensor, /) -> Tensor:
        return self.inner(matrix[:, :3]).to(matrix) @ matrix


def run(method: Any, preset: Any = samo.ERM, **options: Any) -> tuple[Quadratics, Any]:
    model = Quadratics(TASKS)
    engine = preset(model, TASKS, aggregator=method, **options)
    result = engine.backward(model.losses)
    return model, result


@pytest.mark.parametrize("method", [Told(), ToldOfRows()])
def test_natural_losses_are_told_and_own_parameters_minimise_what_is_returned(method: Any) -> None:
    model, result = run(method)
    inner = method if isinstance(method, Told) else method.inner
    losses = torch.stack(list(result.losses.values()))
    assert inner.told is not None
    assert torch.equal(inner.told, losses)
    assert inner.calls == 1
    rows = torch.stack([model.gradient(task) for task in TASKS])
    torch.testing.assert_close(model.x.grad, losses @ rows)
    for i, task in enumerate(TASKS):
        own = model.b[task] * (model.y[task] - 1)
        torch.testing.assert_close(model.y[task].grad, (i + 1) * own.detach())
    torch.testing.assert_close(inner.factors.grad, losses)


def test_none_leaves_own_gradients_alone() -> None:
    method = Told(silent=True)
    model, _ = run(method)
    for task in TASKS:
        own = model.b[task] * (model.y[task] - 1)
        torch.testing.assert_close(model.y[task].grad, own.detach())
    assert method.factors.grad is None


@pytest.mark.parametrize("preset", [samo.GSAM, samo.SAMO])
def test_perturbed_steps_tell_natural_losses(preset: Any) -> None:
    method = Told()
    _, result = run(method, preset, rho=0.1)
    assert method.told is not None
    assert torch.equal(method.told, torch.stack(list(result.losses.values())))


def test_decomposed() -> None:
    """Both aggregations know the losses; own gradients are scaled once; parameters are shared."""
    plain, method = Told(), Told()
    before, result = run(plain, samo.LSAM, rho=0.1)
    after, flat = run(method, samo.FMTL, rho=0.1)
    torch.testing.assert_close(
        after.x.grad, before.x.grad
    )  # the weights are the same for both parts
    torch.testing.assert_close(result.weights.expand(2, 3), flat.weights)
    for task in TASKS:
        torch.testing.assert_close(after.y[task].grad, before.y[task].grad)
    torch.testing.assert_close(method.factors.grad, plain.factors.grad)
    assert method.calls == 1


def test_the_outermost_is_told() -> None:
    """Of an aggregator and its weighting, the aggregator; a wrapped weighting is found."""
    model, imtl = Quadratics(TASKS), IMTL(3)
    samo.ERM(model, TASKS, aggregator=imtl).backward(model.losses)
    assert imtl.log_scale.grad is not None
    losses = torch.stack(list(model.losses(TASKS).values())).detach()
    torch.testing.assert_close(imtl.log_scale.grad.double(), losses - 1, rtol=1e-6, atol=1e-6)
    wrapped = Told()
    run(GramianWeightedAggregator(CRMOGMWeighting(wrapped)))
    assert wrapped.calls == 1


def test_micro_batches_tell_the_mean_once() -> None:
    method, model = Told(), Quadratics(TASKS)
    engine = samo.ERM(model, TASKS, aggregator=method)

    def twice(tasks):
        return {task: 2 * loss for task, loss in model.losses(tasks).items()}

    engine.backward([model.losses, twice])
    assert method.told is not None
    expected = 1.5 * torch.stack(list(model.losses(TASKS).values()))
    torch.testing.assert_close(method.told, expected.detach())
    assert method.calls == 1


def test_absent_tasks_have_their_last_losses() -> None:
    method, model = Told(), Quadratics(TASKS)
    engine = samo.ERM(model, TASKS, aggregator=method)

    def without_b(tasks):
        return {task: 3 * loss for task, loss in model.losses(tasks).items() if task != "b"}

    engine.backward(without_b)
    losses = torch.stack(list(model.losses(TASKS).values())).detach()
    first = 3 * losses
    first[1] = first[[0, 2]].mean()
    torch.testing.assert_close(method.told, first)
    engine.backward(model.losses)
    model.zero_grad()
    method.factors.grad = None
    engine.backward(without_b)
    torch.testing.assert_close(method.told, torch.stack([3 * losses[0], losses[1], 3 * losses[2]]))
    assert model.y["b"].grad is None
    assert method.factors.grad is not None
    torch.testing.assert_close(method.factors.grad, torch.tensor([3.0, 0.0, 3.0]) * losses)


def test_grad_scaler() -> None:
    """The gradients of the method's parameters are scaled as all others are."""
    method = Told().float()
    model = Quadratics(TASKS)
    engine = samo.ERM(model, TASKS, aggregator=method)
    scaler = GradScaler("cpu", init_scale=8.0)
    result = engine.backward(model.losses, grad_scaler=scaler)
    assert method.factors.grad is not None
    losses = torch.stack(list(result.losses.values()))
    torch.testing.assert_close(method.factors.grad.double(), 8 * losses, rtol=1e-6, atol=0)


def test_a_failed_step_is_forgotten() -> None:
    """A later stage of the step fails: what was told before is as it was."""

    class Fails(Told):
        fail = False

        def forward(self, gramian: Tensor, /) -> Tensor:
            if self.fail:
                raise RuntimeError("no weights")
            return super().forward(gramian)

    method, model = Fails(), Quadratics(TASKS)
    engine = samo.ERM(model, TASKS, aggregator=method)
    engine.backward(model.losses)
    told = method.told
    method.fail = True
    with torch.no_grad():
        model.x.add_(1)
    with pytest.raises(RuntimeError, match="no weights"):
        engine.backward(model.losses)
    assert told is not None
    assert method.told is not None
    assert torch.equal(method.told, told)
    assert method.calls == 1


def test_hooks_of_methods_of_the_gradients() -> None:
    """`update` and `step` are called as those of scalarizers are."""

    class Learns(ToldOfRows):
        def __init__(self) -> None:
            super().__init__()
            self.updates: list[Tensor] = []
            self.epochs = 0

        def update(self, losses: Tensor) -> None:
            self.updates.append(losses)

        def step(self) -> None:
            self.epochs += 1

    method, model = Learns(), Quadratics(TASKS)
    engine = samo.ERM(model, TASKS, aggregator=method)
    assert engine.needs_losses_after_step
    engine.optimizer_stepped(model.losses(TASKS))
    assert not method.updates  # nothing has been stepped yet
    engine.backward(model.losses)
    engine.optimizer_stepped(model.losses(TASKS))
    engine.epoch_ended()
    assert method.epochs == 1
    (update,) = method.updates
    torch.testing.assert_close(update, torch.stack(list(model.losses(TASKS).values())).detach())


def test_losses_that_do_not_fit_are_found_when_the_engine_is_made() -> None:
    with pytest.raises(ValueError, match=r"does not fit 3 tasks: .*size"):
        combiner(Told(n_tasks=2), 3)


def test_scale_free() -> None:
    """A Gramian is shown at the size 1, up to a power of two, to weightings with the mark alone."""

    class Looks(Weighting[Any]):
        def forward(self, gramian: Tensor, /) -> Tensor:
            self.seen = gramian.diagonal().mean().item()
            return torch.ones_like(gramian[0])

    class Marked(Looks, ScaleFree):
        pass

    gramian = torch.eye(2, dtype=torch.float64) * 3e-30
    for kind, low, high in ((Looks, 2.9e-30, 3.1e-30), (Marked, 0.5, 1.0)):
        method = kind()
        combiner(method, 2).weights(gramian, [0, 1])  # type: ignore[attr-defined]
        assert low <= method.seen <= high
    assert isinstance(MGDAWeighting(), ScaleFree)
