"""Estimators of the local gradient: what they converge to, what they cost, what they remember."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import samo
from samo.tensors import Layout
from tests import reference
from tests.problems import TASKS, problem
from tests.tools import Heads, Quadratics, close, gradients, same

SHAPES = [(3, 4), (5,), (), (2, 3)]
SIZE = sum(math.prod(shape) for shape in SHAPES)


class QuadraticProbe:
    """A `Probe` of l(θ) = ½ (θ - c)ᵀ A (θ - c), with no engine around it."""

    task = "a"
    names: ClassVar = list(map(str, SHAPES))

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        fixed = torch.Generator().manual_seed(1)
        self.layout = Layout([torch.empty(shape, dtype=torch.float64) for shape in SHAPES])
        root = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=fixed)
        self.hessian = root @ root.T / SIZE
        self.away = torch.randn(SIZE, dtype=torch.float64, generator=fixed)
        self.mean = self.layout.empty()
        self.mean.flats[0].normal_(generator=fixed)
        self.calls = []
        self.loss = self._loss(self.away)

    def _loss(self, away):
        return away @ self.hessian @ away / 2

    @property
    def mean_norms(self):
        return self.mean.norms()

    def draw(self, noise):
        z = self.layout.empty()
        z.flats[0].normal_(generator=self.generator)
        if noise == "rademacher":
            z.flats[0].sign_()
        self.drawn = z.flats[0].clone()
        return z

    def from_the_loss(self):
        return list(range(len(SHAPES)))[::-1]

    def loss_at(self, direction, step):
        self.calls.append(step)
        return self._loss(self.away + step * direction.flats[0])

    def gradient(self, tensors=None):
        assert tensors is None
        vector = self.layout.empty()
        vector.flats[0].copy_(self.hessian @ self.away)
        return vector


def estimates(estimator, count, seed=0):
    probe = QuadraticProbe(seed)
    return torch.stack([estimator.estimate(probe).flats[0].clone() for _ in range(count)])


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_more_samples_come_closer(noise):
    """E ‖ĝ - g‖² = (d ± 1) ‖g‖² / S: + for Gaussian noise, - for Rademacher's."""
    gradient = QuadraticProbe().gradient().flats[0]
    sign = 1 if noise == "gaussian" else -1
    for samples, repeats in ((1, 1000), (10, 100), (100, 10), (1000, 1)):
        estimator = samo.SPSA(samples=samples, noise=noise, normalization="none")
        error = (estimates(estimator, repeats) - gradient).square().sum(1).mean()
        want = (SIZE + sign) * gradient.square().sum() / samples
        assert error.item() == pytest.approx(want.item(), rel=0.3 if samples < 1000 else 0.6)


@pytest.mark.parametrize("mu", [1e-3, 0.1, 10.0])
def test_antithetic_differences_are_exact_for_quadratics(mu):
    """ĝ = z zᵀ g whatever μ is; one-sided, the curvature remains: + μ/2 (zᵀ A z) z."""
    for antithetic in (True, False):
        probe = QuadraticProbe()
        estimator = samo.SPSA(mu=mu, antithetic=antithetic, normalization="none")
        estimate = estimator.estimate(probe).flats[0]
        z, gradient = probe.drawn, probe.gradient().flats[0]
        want = z * (z @ gradient)
        if not antithetic:
            want = want + z * (mu / 2 * (z @ probe.hessian @ z))
        torch.testing.assert_close(estimate, want, rtol=1e-9, atol=1e-9)
        assert probe.calls == ([mu, -mu] if antithetic else [mu])


@pytest.mark.parametrize("kind", [samo.SPSA, samo.RandomDirection])
@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_normalisations(noise, kind):
    """Layerwise: each tensor has the norm of g_0's; global: the whole has; none: as it is."""

    def made(normalization):
        probe = QuadraticProbe()
        return kind(noise=noise, normalization=normalization).estimate(probe), probe.mean

    raw, _ = made("none")
    layerwise, mean = made("layerwise")
    for tensor, its_mean, its_raw in zip(layerwise.tensors, mean.tensors, raw.tensors, strict=True):
        torch.testing.assert_close(tensor, its_raw * its_mean.norm() / its_raw.norm())
    whole, mean = made("global")
    scale = mean.flats[0].norm() / raw.flats[0].norm()
    torch.testing.assert_close(whole.flats[0], raw.flats[0] * scale)


@pytest.mark.parametrize("normalization", ["layerwise", "global", "none"])
@pytest.mark.parametrize("kind", [samo.SPSA, samo.RandomDirection])
def test_zero_is_not_divided_by(kind, normalization):
    """A tensor where g_0 or ĝ_i is zero gets zero, and never NaN."""
    probe = QuadraticProbe()
    probe.mean.tensors[1].zero_()
    estimate = kind(normalization=normalization).estimate(probe)
    assert estimate.flats[0].isfinite().all()
    assert (normalization == "layerwise") == (not estimate.tensors[1].any())
    probe.hessian.zero_()
    flat = samo.SPSA(normalization=normalization).estimate(probe)
    assert not flat.flats[0].any()
    probe.mean.flats[0].zero_()
    estimate = kind(normalization=normalization).estimate(probe)
    assert estimate.flats[0].isfinite().all()


def test_cosine_of_one_sample():
    """In d dimensions, the mean cosine of one signed direction with g is about √(2 / πd)."""
    probe = QuadraticProbe()
    probe.mean.flats[0].copy_(probe.gradient().flats[0])
    gradient = probe.gradient().flats[0]
    drawn = torch.stack(
        [samo.SPSA(normalization="global").estimate(probe).flats[0].clone() for _ in range(2000)]
    )
    cosines = torch.cosine_similarity(drawn, gradient, dim=1)
    assert (cosines > 0).all()
    assert cosines.mean().item() == pytest.approx(math.sqrt(2 / (math.pi * SIZE)), rel=0.05)
    blind = torch.stack(
        [samo.RandomDirection().estimate(probe).flats[0].clone() for _ in range(2000)]
    )
    assert abs(torch.cosine_similarity(blind, gradient, dim=1).mean().item()) < 0.01


class Spy(samo.LocalGradient):
    """Another estimator, looked at: the user's own is a class like this one."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def estimate(self, probe):
        estimate = self.inner.estimate(probe)
        self.seen.append((probe.task, estimate.flats[0].clone()))
        return estimate


class Spied(samo.PreviousGradient):
    """The previous gradient, looked at."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def estimate(self, probe):
        estimate = super().estimate(probe)
        self.seen.append((probe.task, estimate.flats[0].clone()))
        return estimate


def spied(inner: samo.LocalGradient, steps: int = 1, preset=samo.SAMO, model="plain", **options):
    case, spy = problem(model), Spy(inner)
    engine = preset(case.model, TASKS, aggregator="ls", local=spy, **options)
    for _ in range(steps):
        engine.backward(lambda tasks: case.losses(case.model, tasks))
    return case, spy.seen


def test_random_direction_is_spsa_without_its_sign():
    """With the same seed and one sample, the two differ in the sign alone, task by task."""
    _, signed = spied(samo.SPSA(), steps=3)
    _, random = spied(samo.RandomDirection(), steps=3)
    signs = set()
    for (task, one), (other, two) in zip(signed, random, strict=True):
        assert task == other
        sign = (one @ two).sign()
        torch.testing.assert_close(one, sign * two, rtol=1e-9, atol=0)
        signs.add(sign.item())
    assert signs == {1.0, -1.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_is_fresh(seed):
    """z is another for each task, each step and each seed."""
    _, seen = spied(samo.RandomDirection(normalization="none"), steps=2, seed=seed)
    _, other = spied(samo.RandomDirection(normalization="none"), steps=2, seed=2)
    drawn = torch.stack([z for _, z in seen + other])
    cosines = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert len(drawn) == 12
    assert cosines.abs().max() < 0.6  # in some 60 dimensions, chance is 0.13


def test_a_user_s_estimator_of_ten_lines():
    """A new estimator is one small class: here forward differences along two fixed axes."""

    class Axes(samo.LocalGradient):
        """The derivatives along the first two coordinates."""

        def estimate(self, probe):
            gradient = probe.mean.layout.zeros()
            for i in range(2):
                axis = probe.mean.layout.zeros()
                axis.flats[0][i] = 1.0
                gradient.flats[0][i] = (probe.loss_at(axis, 1e-6) - probe.loss) / 1e-6
            return gradient

    model = Quadratics()
    exact = {task: model.gradient(task)[:2] for task in TASKS}
    spy = Spy(Axes())
    engine = samo.SAMO(model, TASKS, aggregator="mgda", alpha=0.0, rho=0.2, local=spy)
    perturbed: Any = engine.backward(model.losses).perturbed_losses
    for task, estimate in spy.seen:
        torch.testing.assert_close(estimate[:2], exact[task], rtol=1e-4, atol=1e-4)
        epsilon = 0.2 * estimate / estimate.norm()
        eta = 0.2  # along y - 1, whose length is what it was plus η
        y, b = model.y[task].detach() - 1, model.b[task]
        x = model.x.detach() + epsilon - model.c[task]
        want = x @ model.A[task] @ x / 2 + b / 2 * (y.norm() + eta) ** 2
        torch.testing.assert_close(perturbed[task], want, rtol=1e-9, atol=0)


def test_an_estimator_that_fails_leaves_no_trace():
    """What an estimator raises reaches the caller; parameters are as before."""

    class Failing(samo.LocalGradient):
        """Fails at the second task, after a probe."""

        def estimate(self, probe):
            if probe.task == "b":
                probe.loss_at(probe.draw("gaussian"), 1.0)
                raise RuntimeError("no estimate")
            return probe.draw("rademacher")

    model = Quadratics()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="no estimate"):
        samo.SAMO(model, TASKS, aggregator="ls", local=Failing()).backward(model.losses)
    same(dict(model.named_parameters()), before)
    assert all(p.grad is None for p in model.parameters())


def only(present, case, tasks):
    """A closure that leaves tasks out."""
    return case.losses(case.model, [task for task in tasks if task in present])


SCALARIZERS = {
    "ls": lambda losses: torch.ones_like(losses),
    "gls": lambda losses: losses.prod() ** (1 / len(losses)) / losses / len(losses),
}


@pytest.mark.parametrize("aggregator", SCALARIZERS)
def test_previous_gradient_is_that_of_the_last_step(aggregator):
    """ĝ_i is g_i of task i's last step (g_0 at first), also where a task was absent in between."""
    case = problem("plain")
    engine = samo.SAMO(
        case.model, TASKS, aggregator=aggregator, rho=0.2, local=samo.PreviousGradient()
    )
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1)
    weights = SCALARIZERS[aggregator]
    last: dict[str, torch.Tensor] = {}
    for present in (["a", "c"], TASKS, ["b", "c"], ["a"], TASKS):
        here = problem("plain", present)
        here.model = case.model
        named = dict(case.model.named_parameters())
        gradients_now = [
            torch.autograd.grad(loss, [named[n] for n in case.shared], retain_graph=True)
            for loss in case.losses(case.model, present).values()
        ]
        rows = [torch.cat([g.flatten() for g in gradient]) for gradient in gradients_now]
        mean = torch.stack(rows).mean(0)
        want, matrix = reference.step(
            here,
            lambda rows, losses: weights(losses) @ rows,
            weights,
            rho=0.2,
            estimate="previous",
            previous=[last.get(task, mean) for task in present],
        )
        last |= dict(zip(present, matrix, strict=True))
        optimizer.zero_grad()
        engine.backward(partial(only, present, case))
        grads = {n: g for n, g in gradients(case.model).items() if g is not None}
        close(grads, want)
        optimizer.step()


@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
def test_previous_gradient_is_the_mean_over_micro_batches(aggregator):
    """With micro-batches, what is remembered is the average of the task gradients."""
    model = Quadratics()
    shifts = [0.0, 0.7, -0.2]

    def closure(shift):
        def losses(tasks):
            x = model.x + shift
            return {t: (x - model.c[t]) @ model.A[t] @ (x - model.c[t]) / 2 for t in tasks}

        return losses

    engine = samo.SAMO(
        model, TASKS, aggregator=aggregator, rho=0.2, alpha=0.4, local=samo.PreviousGradient()
    )
    previous: dict[str, torch.Tensor] = {}
    for _ in range(3):
        sums = dict.fromkeys(TASKS, torch.zeros_like(model.x))
        for shift in shifts:
            x = model.x.detach() + shift
            mean = model.mean_gradient(x)
            for task in TASKS:
                u = 0.4 * mean + 0.6 * previous.get(task, mean)
                sums[task] = sums[task] + model.gradient(task, x + 0.2 * u / u.norm()) / 3
        engine.backward([closure(shift) for shift in shifts])
        previous = sums
        close({t: g["x"] for t, g in engine.state_dict()["local"].items()}, previous, 1e-12)
        with torch.no_grad():
            model.x.sub_(0.1 * gradients(model)["x"])
        model.zero_grad()


@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("decompose", [False, True])
def test_previous_gradient_remembers_for_itself(aggregator, decompose):
    """Its memory is its own, in the parameters' dtype; changes of gradients do not reach it."""
    model, x = Heads(), torch.randn(5, 4)
    local = samo.PreviousGradient()
    engine = samo.SAMO(model, TASKS, aggregator=aggregator, local=local, decompose=decompose)
    engine.backward(lambda tasks: model.losses(tasks, x))
    before = engine.state_dict()["local"]
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(torch.nan)
        parameter.data.fill_(3.0)
    after = engine.state_dict()["local"]
    assert before.keys() == after.keys() == set(TASKS)
    for task in TASKS:
        same(before[task], after[task])
        assert after[task].keys() == {"trunk.0.weight", "trunk.0.bias"}
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in after[task].values())
    assert not local.state_dict()  # another engine with the same estimator starts anew


@pytest.mark.parametrize("frozen", [False, True])
def test_previous_gradient_of_each_parameter_is_its_own(frozen):
    """Where other parameters are perturbed than before, each still gets its own last gradient."""
    model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in ("one", "two")}).double()
    x, selected = torch.randn(4, 3, dtype=torch.float64), ["one"]

    def losses(tasks):
        h = model["two"](model["one"](x).tanh()).tanh()
        return {task: (h - i).square().mean() for i, task in enumerate("ab") if task in tasks}

    where = None if frozen else lambda name, parameter: name.split(".")[0] in selected
    engine: Any = samo.SAMO(
        model, ["a", "b"], aggregator="ls", local=Spied(), where=where, shared=model
    )
    spy = engine.perturbation.local
    engine.backward(losses)
    want = {task: g["two.weight"].flatten().clone() for task, g in spy.state_dict().items()}
    selected[:] = ["two"]
    model["one"].requires_grad_(not frozen)
    spy.seen.clear()
    engine.backward(losses)
    close(dict(spy.seen), want)
