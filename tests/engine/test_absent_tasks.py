"""A task that the closure leaves out of a batch takes no part in the step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca

import samo
from samo import aggregation
from samo.aggregation._combiner import WeightsOfGramian, combiner
from tests.problems import TASKS, problem
from tests.tools import close, gradients, same

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
HERE = ["a", "c"]


def leaving_out(case, present, tasks):
    return case.losses(case.model, [task for task in tasks if task in present])


def returning_all(case, present, tasks):
    """A closure that ignores what it is asked for."""
    return case.losses(case.model, [task for task in TASKS if task in present])


def options(name):
    return {"weights": [1.0, 2.0, 3.0]} if name == "constant" else {}


STATELESS = ["gls", "upgrad", "config"]


@pytest.mark.parametrize("aggregator", STATELESS)
@pytest.mark.parametrize("preset", PRESETS)
def test_equals_an_engine_of_the_others(preset, aggregator):
    """A stateless method gives what it would give if the absent task did not exist."""
    make, settings = PRESETS[preset]
    seen = []
    for tasks in (TASKS, HERE):
        case = problem("dropout_heads")
        engine = make(case.model, tasks, aggregator=aggregator, **settings)
        torch.manual_seed(1)
        for _ in range(2):
            case.model.zero_grad()
            result = engine.backward(partial(leaving_out, case, HERE))
        assert list(result.losses) == HERE
        assert result.weights is None or result.weights.shape[-1] == len(HERE)
        assert result.gramian is None or result.gramian.shape == (2, 2)
        seen.append(gradients(case.model))
    close(seen[0], seen[1], 1e-12)  # rows lie elsewhere in memory, so sums may be rounded otherwise
    absent = {n for n, g in seen[0].items() if g is None}
    assert absent == {"heads.b.1.weight", "heads.b.1.bias"}


POSSIBLE = [
    name
    for name in aggregation.available()
    if (method := aggregation.describe(name)).min_tasks <= 2 and method.needs != "sharpness"
]


@pytest.mark.parametrize("aggregator", POSSIBLE)
def test_every_method_goes_on(aggregator):
    """Tasks come and go: all stays finite, and only present tasks' own parameters get gradients."""
    case = problem("plain")
    engine: Any = samo.SAMO(
        case.model,
        TASKS,
        aggregator=aggregation.create(aggregator, 3, **options(aggregator)),
        local=samo.PreviousGradient(),
        decompose=True,
    )
    own = list(engine.aggregator.parameters())
    optimizer = torch.optim.SGD([*case.model.parameters(), *own], lr=0.01)
    for present in (["b", "c"], ["a"], TASKS, HERE):
        optimizer.zero_grad()
        result = engine.backward(partial(leaving_out, case, present))
        for task in TASKS:
            head = case.model.get_submodule(f"heads.{task}")
            assert all((p.grad is None) == (task not in present) for p in head.parameters())
        optimizer.step()
        with torch.no_grad():
            engine.optimizer_stepped(leaving_out(case, present, TASKS))
        engine.epoch_ended()
        assert result.weights is None or result.weights.isfinite().all()
        assert list(result.losses) == list(result.sharpness) == present
        assert all(p.isfinite().all() for p in [*case.model.parameters(), *own])


@pytest.mark.parametrize("aggregator", ["krum", "trimmed-mean"])
def test_too_few_tasks_for_the_method(aggregator):
    """A method that needs three tasks says so; the gradients and the estimator are untouched."""
    case = problem("plain")
    engine = samo.SAMO(case.model, TASKS, aggregator=aggregator, local=samo.PreviousGradient())
    engine.backward(partial(leaving_out, case, TASKS))
    before, local = gradients(case.model), repr(engine.state_dict()["local"])
    with pytest.raises(ValueError, match="at least 3 rows"):
        engine.backward(partial(leaving_out, case, HERE))
    same(gradients(case.model), before)
    assert repr(engine.state_dict()["local"]) == local


@pytest.mark.parametrize("make", [sca.UW, sca.IMTLL])
def test_a_method_s_own_parameters(make):
    """The absent task's entry of a method's parameter gets no gradient, the others' get theirs."""
    case = problem("plain")
    method = make(3)
    engine = samo.GSAM(case.model, TASKS, aggregator=method)
    engine.backward(partial(leaving_out, case, TASKS))
    (parameter,) = method.parameters()
    whole = parameter.grad.clone()
    assert whole.all()
    parameter.grad = None
    engine.backward(partial(leaving_out, case, HERE))
    assert parameter.grad[1] == 0
    torch.testing.assert_close(parameter.grad[[0, 2]], whole[[0, 2]])


def test_uw_without_a_task_is_uw_of_the_others():
    """The weights of the present tasks are what they would be without the absent one."""
    case = problem("plain")
    method, other = sca.UW(3), sca.UW(2)
    for scalarizer, values in ((method, [0.5, 7.0, -0.3]), (other, [0.5, -0.3])):
        (parameter,) = scalarizer.parameters()
        parameter.data.copy_(torch.tensor(values))
    result = [
        samo.GSAM(case.model, tasks, aggregator=m).backward(partial(leaving_out, case, HERE))
        for tasks, m in ((TASKS, method), (HERE, other))
    ]
    one, two = (r.weights for r in result)
    assert one is not None
    torch.testing.assert_close(one, two)


def test_famo_learns_from_the_losses_it_is_told():
    """Logits of tasks that improve go down; an absent task is taken not to have changed."""
    case = problem("plain")
    method = sca.FAMO(3, weight_decay=0.0)
    engine = samo.ERM(case.model, TASKS, aggregator=method)
    engine.backward(partial(leaving_out, case, TASKS))
    losses = {task: loss.detach() for task, loss in case.losses(case.model, TASKS).items()}
    before = method._w.detach().clone()
    engine.optimizer_stepped({task: losses[task] * 0.5 for task in HERE})
    moved = (method._w.detach() - before).sign()
    assert moved.tolist() == [-1.0, 1.0, -1.0]


PREFERENCES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
# Methods of the Gramian that keep something for each task, or a state of all; by the tasks' places.
# TorchJD's own projector adds a multiple of the identity that depends on the number of tasks.
SIZED: dict[str, Callable[[list[int]], Any]] = {
    "gradvac": lambda tasks: agg.GradVac(),
    "upgrad": lambda tasks: agg.UPGrad(PREFERENCES[tasks], projector=aggregation.ExactProjector()),
    "aligned-mtl": lambda tasks: agg.AlignedMTL(PREFERENCES[tasks]),
    "dualproj": lambda tasks: agg.DualProj(
        PREFERENCES[tasks], projector=aggregation.ExactProjector()
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_an_absent_task_has_a_neutral_place_in_the_gramian(name):
    """Where a method needs all K, the present tasks' weights are as of a method of them alone."""
    rows = torch.randn(2, 9, dtype=torch.float64)
    gramian = rows @ rows.T
    three, two = combiner(SIZED[name]([0, 1, 2]), 3), combiner(SIZED[name]([0, 2]), 2)
    assert isinstance(three, WeightsOfGramian)
    assert isinstance(two, WeightsOfGramian)
    assert three.sized
    torch.testing.assert_close(
        three.weights(gramian, [0, 2]), two.weights(gramian, [0, 1]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("name", ["cr-mogm", "sdmgrad", "modo"])
def test_an_absent_task_does_not_take_all_the_weight(name):
    """The shortest vector in a hull with a zero gradient is zero: nothing would be learnt."""
    method = combiner(aggregation.create(name, 3), 3)
    assert isinstance(method, WeightsOfGramian)
    sums = []
    for _ in range(30):
        rows = torch.randn(2, 9, dtype=torch.float64)
        sums.append(method.weights(rows @ rows.T, [0, 2]).sum())
    # SDMGrad's regularisation alone leaves 0.15; the means are 0.44 to 0.84 over many seeds.
    assert torch.stack(sums).mean() > 0.3


@pytest.mark.parametrize(
    ("model", "aggregator"), [("dropout_heads", "gls"), ("batchnorm", "config")]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_closures_that_ignore_their_argument(preset, model, aggregator):
    """They work, with the same result, whether all tasks are present or not."""
    make, settings = PRESETS[preset]
    for present in (TASKS, HERE):
        seen = []
        for closure in (leaving_out, returning_all):
            case = problem(model)
            engine = make(case.model, TASKS, aggregator=aggregator, **settings)
            torch.manual_seed(1)
            engine.backward(partial(closure, case, present))
            seen.append(gradients(case.model) | dict(case.model.named_buffers()))
        close(seen[0], seen[1], 1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_absent_from_a_later_call(preset):
    """A task may be absent all through a step only."""
    make, settings = PRESETS[preset]
    case, calls = problem("plain"), []

    def losses(tasks):
        calls.append(tasks)
        return leaving_out(case, TASKS if len(calls) == 1 else HERE, tasks)

    engine = make(case.model, TASKS, aggregator="ls", **settings)
    if preset in ("erm", "msam", "erm, z"):
        engine.backward(losses)
        return
    with pytest.raises(ValueError, match="throughout a step"):
        engine.backward(losses)
    assert all(p.grad is None for p in case.model.parameters())
