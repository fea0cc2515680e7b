"""What a step reports, dtypes of losses, and gradients as the rest of PyTorch takes them."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

import samo
from samo import StepResult
from tests.problems import TASKS, problem
from tests.tools import Heads, Quadratics, close, gradients, same

PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
}


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([[1.0, 0.0], [-1.0, 0.1], [0.0, 1.0]], 1 / 3),
        ([[1.0, 0.0], [-1.0, -0.1], [0.0, 1.0]], 2 / 3),
        ([[1.0, 0.0], [0.0, 1.0]], 0.0),  # orthogonal is no conflict
        ([[1.0, 0.0], [-1.0, 0.0]], 1.0),
        ([[1.0, 0.0]], None),
    ],
)
def test_conflicts(rows, share):
    """The share of pairs with a negative inner product, by hand and as the engine reports it."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    assert StepResult({}, gramian=matrix @ matrix.T).conflicts == share

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    model = Linear()
    tasks = [f"t{i}" for i in range(len(rows))]
    engine = samo.ERM(model, tasks, aggregator="mgda", shared=model)
    result = engine.backward(lambda asked: {t: matrix[tasks.index(t)] @ model.x for t in asked})
    assert result.conflicts == share
    assert result.gramian is not None
    torch.testing.assert_close(result.gramian, matrix @ matrix.T)
    assert (
        samo.ERM(model, tasks, aggregator="ls", shared=model)
        .backward(lambda asked: {t: matrix[tasks.index(t)] @ model.x for t in asked})
        .conflicts
        is None
    )


@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_losses_and_sharpness(preset, aggregator):
    """Natural losses in the tasks' order, detached; sharpness is perturbed minus natural."""
    make, options = PRESETS[preset]
    model = Quadratics()
    want = {task: loss.detach() for task, loss in model.losses(TASKS).items()}
    engine = make(model, TASKS, aggregator=aggregator, **options)
    result = engine.backward(lambda tasks: dict(reversed(model.losses(tasks).items())))
    same(result.losses, want)
    assert list(result.losses) == TASKS
    assert not any(loss.requires_grad for loss in result.losses.values())
    assert result.overflowed is False
    if preset == "erm":
        assert result.perturbed_losses is None
        assert result.sharpness is None
        return
    assert list(result.perturbed_losses) == TASKS
    assert not any(loss.requires_grad for loss in result.perturbed_losses.values())
    close(result.sharpness, {t: result.perturbed_losses[t] - want[t] for t in TASKS}, 0.0)
    if preset in ("lsam", "fmtl"):  # to first order along its own gradient, a loss goes up
        assert all(value > 0 for value in result.sharpness.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_and_gramian(preset):
    """They are those of the gradients that were aggregated; where decomposed, of both parts."""
    make, options = PRESETS[preset]
    case = problem("plain")
    result = make(case.model, TASKS, aggregator="fairgrad", **options).backward(
        partial(case.losses, case.model)
    )
    assert result.gramian.shape == (3, 3)
    assert result.gramian.dtype == torch.float64
    assert torch.linalg.eigvalsh(result.gramian).min() > -1e-12
    assert result.weights.shape == ((2, 3) if preset == "fmtl" else (3,))
    method: Any = samo.aggregation.create("fairgrad", 3)
    weights = method.gramian_weighting(result.gramian)
    mine = result.weights[0] if preset == "fmtl" else result.weights
    torch.testing.assert_close(mine, weights)


class Precisions(nn.Module):
    """A float32 model whose losses have the dtypes that are asked of it."""

    def __init__(self, dtypes):
        super().__init__()
        torch.manual_seed(0)
        self.dtypes: Any = dtypes
        self.trunk = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in dtypes})

    def losses(self, tasks):
        h = self.trunk(torch.linspace(-1, 1, 20).view(5, 4)).tanh()
        return {t: self.heads[t](h).to(self.dtypes[t]).square().mean() for t in tasks}


@pytest.mark.parametrize("aggregator", ["ls", "gls", "uw", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_losses_of_several_dtypes(preset, aggregator):
    """One float64 and one bfloat16 loss in a float32 model: near what float32 alone gives."""
    make, options = PRESETS[preset]
    seen = []
    for dtypes in (
        dict.fromkeys(TASKS, torch.float32),
        {"a": torch.float32, "b": torch.float64, "c": torch.bfloat16},
    ):
        model = Precisions(dtypes)
        result = make(model, TASKS, aggregator=aggregator, **options).backward(model.losses)
        for task in TASKS:
            assert result.losses[task].dtype == dtypes[task]
        grads = gradients(model)
        assert all(g.dtype == torch.float32 for g in grads.values())
        seen.append(torch.cat([g.flatten() for g in grads.values()]))
    assert torch.cosine_similarity(seen[0], seen[1], dim=0) > 0.99
    torch.testing.assert_close(seen[0], seen[1], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("aggregator", ["ls", "uw", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16(preset, aggregator):
    """A bfloat16 model, and a float32 model under autocast with bfloat16 losses."""
    make, options = PRESETS[preset]
    x = torch.linspace(-2, 2, 28).view(7, 4).sin()
    reference = Heads()
    make(reference, TASKS, aggregator=aggregator, **options).backward(
        partial(reference.losses, x=x)
    )
    want = torch.cat([g.flatten() for g in gradients(reference).values()])

    def autocast(model, tasks):
        with torch.autocast("cpu", torch.bfloat16):
            losses = model.losses(tasks, x.to(model.trunk[0].bias.dtype))
        return {task: loss.bfloat16() for task, loss in losses.items()}

    for dtype in (torch.bfloat16, torch.float32):
        model: Any = Heads().to(dtype)
        theta = copy.deepcopy(model.state_dict())
        engine = make(model, TASKS, aggregator=aggregator, **options)
        result = engine.backward(partial(autocast, model))
        same(model.state_dict(), theta)
        grads = gradients(model)
        assert all(g.dtype == dtype for g in grads.values())
        assert all(loss.dtype == torch.bfloat16 for loss in result.losses.values())
        got = torch.cat([g.float().flatten() for g in grads.values()])
        assert torch.cosine_similarity(got, want, dim=0) > 0.95


@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize("preset", PRESETS)
def test_gradients_accumulate(preset, aggregator):
    """Two calls add up; a gradient that was there stays, in its own storage."""
    make, options = PRESETS[preset]
    if preset == "samo":
        options = {"alpha": 1.0}
    case = problem("plain")
    engine = make(case.model, TASKS, aggregator=aggregator, **options)
    engine.backward(partial(case.losses, case.model))
    once = gradients(case.model)
    own = {name: p.grad for name, p in case.model.named_parameters()}
    engine.backward(partial(case.losses, case.model))
    close(gradients(case.model), {n: 2 * g for n, g in once.items()}, 1e-14)
    assert all(p.grad is own[name] for name, p in case.model.named_parameters())
    for parameter in case.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.backward(partial(case.losses, case.model))
    close(gradients(case.model), {n: 1 + g for n, g in once.items()}, 1e-14)
    case.model.zero_grad(set_to_none=False)
    engine.backward(partial(case.losses, case.model))
    close(gradients(case.model), once, 1e-14)


def test_gradients_are_independent():
    """Changing one parameter's gradient, or the model, changes no other's."""
    model: Any = Heads()
    engine = samo.SAMO(model, TASKS, aggregator="mgda")
    engine.backward(partial(model.losses, x=torch.randn(3, 4)))
    before = gradients(model)
    model.trunk[0].weight.grad.fill_(7.0)
    after = gradients(model)
    del before["trunk.0.weight"], after["trunk.0.weight"]
    same(before, after)
    model.zero_grad(set_to_none=False)
    assert not any(g.any() for g in gradients(model).values())


OPTIMIZERS: dict[str, Any] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=0.01, foreach=False),
    "adam foreach": partial(torch.optim.Adam, lr=0.01, foreach=True),
    "adam fused": partial(torch.optim.Adam, lr=0.01, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_take_them(optimizer):
    """With ERM and the sum, clipping, optimizer and schedule lead where plain PyTorch leads."""
    x = torch.linspace(-2, 2, 28).view(7, 4).sin()
    model, twin = Heads(), Heads()
    engine = samo.ERM(model, TASKS, aggregator="ls")

    def plain():
        torch.stack(list(twin.losses(TASKS, x).values())).sum().backward()

    for trained, backward in (
        (model, lambda: engine.backward(partial(model.losses, x=x))),
        (twin, plain),
    ):
        stepper = OPTIMIZERS[optimizer](trained.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(stepper, 2)
        for step in range(4):
            stepper.zero_grad(set_to_none=step % 2 == 0)
            backward()
            clip_grad_norm_(trained.parameters(), 0.7)
            stepper.step()
            scheduler.step()
    close(dict(model.named_parameters()), dict(twin.named_parameters()), 1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_convolutions_in_channels_last(preset):
    """A convolutional model with GroupNorm gives the same in either memory format."""
    make, options = PRESETS[preset]
    seen = []
    x = torch.linspace(-2, 2, 2 * 3 * 8 * 8).view(2, 3, 8, 8).sin().double()
    for form in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 6))
        model: Any = Heads(trunk).double()
        model.to(memory_format=form)
        make(model, TASKS, aggregator="upgrad", **options).backward(
            partial(model.losses, x=x.to(memory_format=form))
        )
        kernel = model.trunk[0].weight
        assert kernel.is_contiguous(memory_format=form)
        assert kernel.grad.is_contiguous(memory_format=form)
        seen.append(gradients(model))
    if preset == "samo":  # its random numbers lie in memory order, so they differ
        assert all(g.isfinite().all() for g in seen[1].values())
    else:
        close(seen[0], seen[1], 1e-10)
