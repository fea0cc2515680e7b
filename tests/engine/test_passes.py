"""How often the model is evaluated and differentiated, and at which points."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torchjd.aggregation as agg
from torch.utils._python_dispatch import TorchDispatchMode

import samo
from tests.problems import TASKS, problem

K = len(TASKS)
# preset: forwards with a graph, forwards without, backward passes; for a Gramian method
PASSES = {
    "ERM": (1, 0, K),
    "GSAM": (2, 0, K + 1),
    "MSAM": (1, 0, K),
    "LSAM": (1 + K, 0, 2 * K),
    "FMTL": (1 + K, 0, 2 * K),
    "SAMO": (1 + K, 2 * K, K + 1),
}
# where the weights are known before the gradients
PASSES_WEIGHTS_FIRST = {
    "ERM": (1, 0, 1),
    "GSAM": (2, 0, 2),
    "MSAM": (1, 0, 1),
    "LSAM": (1 + K, 0, 2 * K),
    "FMTL": (1 + K, 0, 2 * K),
    "SAMO": (1 + K, 2 * K, K + 1),
}


class Counted:
    """A closure that notes what it was asked for, and where the parameters were."""

    def __init__(self, case):
        self.case = case
        self.asked, self.with_graph, self.points = [], [], []
        self.backwards = 0

    def __call__(self, tasks):
        self.asked.append(list(tasks))
        self.with_graph.append(torch.is_grad_enabled())
        self.points.append({n: p.detach().clone() for n, p in self.case.model.named_parameters()})
        return self.case.losses(self.case.model, tasks)


def run(preset, aggregator, monkeypatch=None, model="plain", **options):
    case = problem(model)
    counted = Counted(case)
    engine = getattr(samo, preset)(case.model, TASKS, aggregator=aggregator, **options)
    if monkeypatch is not None:
        grad = torch.autograd.grad

        def counting(outputs, inputs, *args, **kwargs):
            inputs = list(inputs)
            if any(p is q for p in case.model.parameters() for q in inputs):
                counted.backwards += 1
            return grad(outputs, inputs, *args, **kwargs)

        monkeypatch.setattr(torch.autograd, "grad", counting)
    engine.backward(counted)
    return counted


@pytest.mark.parametrize(
    ("aggregator", "preset", "passes"),
    [("mgda", *item) for item in PASSES.items()]
    + [("ls", *item) for item in PASSES_WEIGHTS_FIRST.items()],
)
def test_counts(aggregator, preset, passes, monkeypatch):
    """Exactly the passes of each method, and one head where one is needed."""
    counted = run(preset, agg.MGDA() if aggregator == "mgda" else "ls", monkeypatch)
    graph = sum(counted.with_graph)
    assert (graph, len(counted.asked) - graph, counted.backwards) == passes
    assert counted.asked[0] == TASKS
    joint = preset in ("ERM", "GSAM")
    assert all(tasks == TASKS if joint else len(tasks) == 1 for tasks in counted.asked[1:])


def test_one_sided_spsa_halves_the_evaluations(monkeypatch):
    """One evaluation a task without a graph; the natural loss serves the difference."""
    counted = run("SAMO", "ls", monkeypatch, local=samo.SPSA(antithetic=False, samples=2))
    assert len(counted.with_graph) - sum(counted.with_graph) == 2 * K


@pytest.mark.parametrize(("aggregator", "backwards"), [("mgda", 2 * K), ("ls", 2 * K + 1)])
def test_exact_gradients_give_their_mean(aggregator, backwards, monkeypatch):
    """Where all task gradients are kept, g_0 is their mean and takes no pass of its own."""
    counted = run("SAMO", aggregator, monkeypatch, local=samo.ExactGradient())
    assert counted.with_graph == [True] * (1 + K)
    assert counted.backwards == backwards


@pytest.mark.parametrize("local", [samo.PreviousGradient(), samo.RandomDirection()])
def test_free_estimators(local, monkeypatch):
    """No pass at all but those of the tasks."""
    counted = run("SAMO", "ls", monkeypatch, local=local)
    assert counted.with_graph == [True] * (1 + K)
    assert counted.backwards == 1 + K


def displacement(counted, call, names):
    at, theta = counted.points[call], counted.points[0]
    return torch.cat([(at[n] - theta[n]).flatten() for n in names])


@pytest.mark.parametrize("model", ["plain", "batchnorm", "tied", "branches", "lstm"])
@pytest.mark.parametrize("preset", ["GSAM", "LSAM", "FMTL", "SAMO"])
def test_radius(model, preset):
    """Seen from inside the closure, ‖ε_i‖ = ρ and ‖η_i‖ = ρ; other heads stay where they are."""
    rho = 0.07
    counted = run(preset, "ls", model=model, rho=rho)
    case = counted.case
    for call, tasks in enumerate(counted.asked):
        if call == 0 or not counted.with_graph[call]:
            continue
        assert displacement(counted, call, case.shared).norm().item() == pytest.approx(rho, 1e-9)
        for task in TASKS:
            eta = displacement(counted, call, case.own[task]).norm().item()
            assert eta == pytest.approx(rho if task in tasks else 0.0, 1e-9, 1e-15)


@pytest.mark.parametrize("model", ["plain", "dropout_heads", "batchnorm", "transformer"])
@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_spsa_points(model, noise):
    """SPSA's points are symmetric about θ, fresh for each task, and leave the heads alone."""
    mu = 0.02
    counted = run("SAMO", "ls", model=model, local=samo.SPSA(mu=mu, noise=noise))
    probing = [i for i, graph in enumerate(counted.with_graph) if not graph]
    seen = []
    for ahead, behind in zip(probing[::2], probing[1::2], strict=True):
        assert counted.asked[ahead] == counted.asked[behind]
        z = displacement(counted, ahead, counted.case.shared) / mu
        torch.testing.assert_close(
            displacement(counted, behind, counted.case.shared), -mu * z, rtol=0, atol=1e-15
        )
        for names in counted.case.own.values():
            assert displacement(counted, ahead, names).norm() == 0
        if noise == "rademacher":
            torch.testing.assert_close(z.abs(), torch.ones_like(z))
        seen.append(z)
    assert len(seen) == K
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))


@pytest.mark.parametrize("model", ["plain", "groupnorm", "branches", "gru"])
def test_layerwise_norms_and_ascent(model):
    """Every tensor of the estimate has the norm of g_0's, and it never descends."""
    case = problem(model)
    named = dict(case.model.named_parameters())
    mean_loss = torch.stack(list(case.losses(case.model, TASKS).values())).mean()
    g_0 = torch.autograd.grad(mean_loss, [named[n] for n in case.shared])
    estimates = []

    class Spy(samo.LocalGradient):
        """SPSA, looked at."""

        def estimate(self, probe):
            drawn: list[torch.Tensor] = []
            losses: dict[float, torch.Tensor] = {}
            draw, loss_at = probe.draw, probe.loss_at

            def listening_draw(noise):
                z = draw(noise)
                drawn.extend(t.clone() for t in z.tensors)
                return z

            def listening_loss_at(direction, step):
                losses[step] = loss_at(direction, step)
                return losses[step]

            probe.draw, probe.loss_at = listening_draw, listening_loss_at
            estimate = samo.SPSA(mu=0.01).estimate(probe)
            along = sum((e * z).sum() for e, z in zip(estimate.tensors, drawn, strict=True))
            assert (losses[0.01] - losses[-0.01]) * along > 0
            estimates.append([t.clone() for t in estimate.tensors])
            return estimate

    engine = samo.SAMO(case.model, TASKS, aggregator="ls", local=Spy())
    engine.backward(lambda tasks: case.losses(case.model, tasks))
    assert len(estimates) == K
    for estimate in estimates:
        for mine, reference in zip(estimate, g_0, strict=True):
            torch.testing.assert_close(mine.norm(), reference.norm(), rtol=1e-10, atol=1e-14)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("preset", ["ERM", "GSAM", "LSAM", "FMTL", "SAMO"])
def test_no_matrix_where_weights_are_known(preset):
    """Nothing of size K x m is made for a method whose weights are known before the gradients."""
    torch.manual_seed(0)
    tasks = [f"t{i}" for i in range(6)]
    model = torch.nn.ModuleDict(
        {"trunk": torch.nn.Linear(20, 50)} | {task: torch.nn.Linear(50, 1) for task in tasks}
    )
    m = sum(p.numel() for p in model["trunk"].parameters())
    x = torch.randn(4, 20)

    def losses(asked):
        h = model["trunk"](x).tanh()
        return {task: model[task](h).square().mean() for task in asked}

    engine = getattr(samo, preset)(model, tasks, aggregator="ls")
    with Largest() as largest:
        result = engine.backward(losses)
    assert largest.numel <= m
    assert result.gramian is None
    with Largest() as largest:
        getattr(samo, preset)(model, tasks, aggregator=agg.MGDA()).backward(losses)
    assert largest.numel >= len(tasks) * m  # so that the measurement can fail
