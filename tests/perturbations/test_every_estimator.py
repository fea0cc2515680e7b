"""What every registered estimator must hold to; a new one joins by being registered."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

import samo
from samo._citation import bibtex
from samo.perturbations import ESTIMATORS
from samo.training import PRESETS, perturbation
from tests.problems import TASKS, losses, problem
from tests.snapshots import Expected
from tests.tools import Quadratics, close, gradients, same

# Arguments with which three tasks and small models show what an estimator does.
ARGUMENTS: dict[type, dict[str, Any]] = {
    samo.TaskGroups: {"groups": 2, "every": 2},
    samo.LastLayers: {"share": 0.3},
}
every_estimator = pytest.mark.parametrize("kind", ESTIMATORS, ids=lambda kind: kind.__name__)


def made(kind):
    return kind(**ARGUMENTS.get(kind, {}))


def engine_of(kind, model, aggregator="mgda", **options):
    return samo.SAMO(
        model, TASKS, aggregator=aggregator, local=made(kind), **{"rho": 0.1, **options}
    )


def local_state(engine):
    return repr(engine.state_dict()["local"])


@every_estimator
@pytest.mark.parametrize("model", ["batchnorm", "dropout_heads", "tied"])
def test_only_the_natural_pass_is_to_be_seen(kind, model):
    """Parameters, buffers, flags and random numbers, step after step."""
    case = problem(model)
    engine = engine_of(kind, case.model)
    for _ in range(3):
        expected = Expected(case.model, lambda model: losses(model, TASKS))
        engine.backward(partial(losses, case.model))
        expected.check(case.model, grad=False)


@every_estimator
def test_an_exception_in_any_pass_leaves_nothing(kind):
    """Whichever call of the closure fails: gradients and what the estimator knows stay."""
    case = problem("dropout")
    engine = engine_of(kind, case.model)
    calls = 0

    def counting(tasks, blows=None):
        nonlocal calls
        calls += 1
        if calls == blows:
            raise ZeroDivisionError
        return losses(case.model, tasks)

    engine.backward(counting)
    total = calls
    engine.backward(counting)  # groups are of their last step now
    before, known = gradients(case.model), local_state(engine)
    assert total >= 3
    for blows in range(1, total + 1):
        calls = 0
        expected = Expected(case.model, lambda model: losses(model, TASKS))
        with pytest.raises(ZeroDivisionError):
            engine.backward(partial(counting, blows=blows))
        if blows > 1:
            expected.check(case.model)
        same(gradients(case.model), before)
        assert local_state(engine) == known


@every_estimator
def test_an_exception_in_a_later_micro_batch_leaves_nothing(kind):
    """What the estimator learnt from the micro-batches before is forgotten as well."""
    case = problem("plain")
    engine = engine_of(kind, case.model)
    known = local_state(engine)

    def failing(tasks):
        raise ZeroDivisionError

    ends = [partial(losses, case.model), partial(losses, case.model), failing]
    for closures in (ends[:1], ends):  # the partition is known from the first step
        try:
            engine.backward(closures)
        except ZeroDivisionError:
            assert local_state(engine) == known
        known = local_state(engine)


@every_estimator
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
def test_goes_on_bit_for_bit_from_a_file(kind, aggregator):
    """An engine of another seed that loads the state takes the very same steps."""

    def run(engine, case, steps):
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.2)
        grads: dict[tuple[int, str], torch.Tensor] = {}
        for step in range(steps):
            optimizer.zero_grad()
            engine.backward(partial(losses, case.model))
            optimizer.step()
            grads |= {(step, name): grad for name, grad in gradients(case.model).items()}
        return grads

    for before in (0, 1, 3):
        case = problem("groupnorm")
        engine = engine_of(kind, case.model, aggregator)
        run(engine, case, before)
        file = io.BytesIO()
        torch.save([engine.state_dict(), case.model.state_dict()], file)
        want = run(engine, case, 3)
        state, weights = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        case = problem("groupnorm")
        case.model.load_state_dict(weights)
        engine = engine_of(kind, case.model, aggregator, seed=9)
        engine.load_state_dict(state)
        same(run(engine, case, 3), want)


@every_estimator
def test_each_engine_knows_for_itself(kind):
    """What one engine's estimator learns, no other knows, and not the one that was given."""
    case, given = problem("plain"), made(kind)
    engines = [samo.SAMO(case.model, TASKS, aggregator="ls", local=given) for _ in range(2)]
    fresh = local_state(engines[1])
    engines[0].backward(partial(losses, case.model))
    assert local_state(engines[1]) == fresh
    if given.stateful:
        assert local_state(engines[0]) != fresh == repr(given.state_dict())


@every_estimator
@pytest.mark.parametrize("aggregator", ["ls", "config"])
def test_no_radius_is_erm(kind, aggregator):
    """With ρ = 0 the gradients are ERM's, bit for bit."""
    seen = []
    for build in (samo.ERM, partial(samo.SAMO, rho=0.0, local=made(kind))):
        case = problem("branches")
        engine: Any = build(case.model, TASKS, aggregator=aggregator)
        engine.backward(partial(losses, case.model))
        seen.append(gradients(case.model))
    same(seen[0], seen[1])


@every_estimator
@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("adaptive", [False, True])
def test_radius(kind, alpha, adaptive):
    """From inside the closure: each ε has norm ρ (of ε / |θ| if adaptive), as have the η."""
    case, points = problem("branches"), []

    def spied(tasks):
        point = {n: p.detach().clone() for n, p in case.model.named_parameters()}
        points.append((list(tasks), torch.is_grad_enabled(), point))
        return losses(case.model, tasks)

    engine = engine_of(kind, case.model, alpha=alpha, adaptive=adaptive)
    engine.backward(spied)
    theta = points[0][2]

    def far(point, names):
        moved = [(point[n] - theta[n]) / (theta[n] if adaptive else 1) for n in names]
        return torch.cat([m.flatten() for m in moved]).norm().item()

    seen = []
    for tasks, graph, point in points[1:]:
        if graph:
            seen += tasks
            assert far(point, case.shared) == pytest.approx(0.1, rel=1e-9)
            for task in TASKS:
                want = 0.1 if task in tasks else 0.0
                assert far(point, case.own[task]) == pytest.approx(want, rel=1e-9)
    assert sorted(seen) == TASKS  # each task at one point


@every_estimator
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_no_gradient_no_perturbation(kind, alpha):
    """Where all tasks are at their optimum nothing is NaN, and every gradient is zero."""
    model = Quadratics()
    with torch.no_grad():
        for task in TASKS:
            model.c[task] = model.x.detach().clone()
            model.y[task].fill_(1.0)
    engine = engine_of(kind, model, alpha=alpha)
    if getattr(engine.perturbation.local, "normalization", "layerwise") == "layerwise":
        for _ in range(2):
            engine.backward(model.losses)
        assert not any(g.any() for g in gradients(model).values())


@every_estimator
def test_only_what_is_selected_moves(kind):
    """`where` with a whole parameter, a mask, and nothing of a third, changed between two steps."""
    case = problem("plain")
    theta = {n: p.detach().clone() for n, p in case.model.named_parameters()}
    masks: dict[str, Any] = {}
    moved: dict[str, torch.Tensor] = {}

    def spied(tasks):
        for name, p in case.model.named_parameters():
            if name in case.shared:
                moved[name] = moved.get(name, torch.zeros(()).bool()) | (p != theta[name])
        return losses(case.model, tasks)

    engine = engine_of(kind, case.model, where=lambda name, _: masks.get(name, True))
    for chosen in (
        {"trunk.0.weight": theta["trunk.0.weight"] > 0, "trunk.2.bias": False},
        {"trunk.2.weight": theta["trunk.2.weight"] > 0, "trunk.0.weight": False},
    ):
        masks, moved = chosen, {}
        engine.backward(spied)
        for name in case.shared:
            want = torch.as_tensor(chosen.get(name, True)).expand(theta[name].shape)
            assert torch.equal(moved[name], want), name


def without_b(model, asked):
    return losses(model, [task for task in asked if task != "b"])


@every_estimator
def test_an_absent_task_takes_no_part(kind):
    """All is as in an engine that has never heard of it."""
    seen = []
    for tasks in (TASKS, ["a", "c"]):
        case = problem("plain")
        engine = samo.SAMO(case.model, tasks, aggregator="upgrad", local=made(kind))
        for _ in range(2):
            result = engine.backward(partial(without_b, case.model))
        assert list(result.losses) == ["a", "c"]
        seen.append(gradients(case.model))
    close(seen[0], seen[1], 1e-12)


@every_estimator
@pytest.mark.parametrize("decompose", [False, True])
def test_a_grad_scaler_only_scales(kind, decompose):
    """With a scale of 1024, the gradients are 1024 times as large, and nothing else changes."""
    seen = []
    for scaler in (None, GradScaler("cpu", init_scale=1024.0)):
        case = problem("plain")
        engine = engine_of(kind, case.model, decompose=decompose)
        for _ in range(2):
            case.model.zero_grad()
            engine.backward(partial(losses, case.model), grad_scaler=scaler)
        seen.append(gradients(case.model))
    close({n: 1024 * g for n, g in seen[0].items()}, seen[1], 1e-9)


@every_estimator
def test_the_task_at_fault_is_named(kind):
    """A gradient that is not finite at a perturbed point: the task, and nothing left behind."""
    case, calls = problem("plain"), 0

    def faulty(tasks):
        nonlocal calls
        calls += 1
        out = losses(case.model, tasks)
        if calls > 1 and torch.is_grad_enabled() and "b" in out:
            weight = case.model.get_parameter("trunk.0.weight")
            out["b"] = out["b"] + (weight - weight.detach()).square().sum().sqrt()
        return out

    with pytest.raises(samo.NonFiniteError, match="'b'") as error:
        engine_of(kind, case.model).backward(faulty)
    assert list(error.value.tasks) == ["b"]
    assert all(p.grad is None for p in case.model.parameters())


@every_estimator
def test_it_can_be_written_down(kind):
    """Its repr reconstructs it, its papers are in the bibliography and cited, a preset has it."""
    estimator = made(kind)
    again = eval(repr(estimator), dict(vars(samo)))
    assert type(again) is kind
    assert repr(again) == repr(estimator)
    assert all(bibtex([key]) for key in kind.references)
    engine = samo.SAMO(Quadratics(), TASKS, aggregator="ls", local=estimator)
    assert all(f"{{{key}," in engine.citation() for key in kind.references)
    chosen = [perturbation(name, 0.1, {})[0] for name in PRESETS if name != "erm"]
    assert kind in {type(one.local) for one in chosen if isinstance(one, samo.Perturbation)}
    assert getattr(samo, kind.__name__) is kind
