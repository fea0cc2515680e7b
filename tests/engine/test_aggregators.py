"""Every method and every kind of TorchJD object in the engine; what each is given, and its cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.linalg import PSDMatrix

import samo
from samo import aggregation
from samo.tensors import Matrix
from tests.problems import TASKS, problem
from tests.tools import Heads, Quadratics, close, gradients, same

PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
}
K = len(TASKS)
OPTIONS = {"constant": {"weights": [1.0, 2.0, 3.0]}}
VECTOR = torch.tensor([0.5, 2.0, 1.0])
# The arguments of TorchJD's classes that need some.
ARGUMENTS: dict[str, Any] = {
    "CAGrad": {"c": 0.4},
    "Constant": {"weights": VECTOR},
    "COSMOS": {"lambda_": 0.1, "weights": VECTOR},
    "CRMOGM": {"weighting": agg.MGDAWeighting()},
    "FairGrad": {"alpha": 2.0},
    "FAMO": {"shape": K},
    "GeneralizedMean": {"p": 2.0},
    "IMTLL": {"shape": K},
    "Krum": {"n_byzantine": 0},
    "NashMTL": {"n_tasks": K},
    "PBI": {"weights": VECTOR, "theta": 5.0},
    "STCH": {"mu": 0.1},
    "TrimmedMean": {"trim_number": 1},
    "UW": {"shape": K},
}
BASES = ("Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Weighting", "Scalarizer")
KINDS: dict[str, Callable[[], Any]] = {
    f"{package.__name__.rpartition('.')[2]}.{name}": partial(
        getattr(package, name), **ARGUMENTS.get(name.removesuffix("Weighting"), {})
    )
    for package in (agg, sca)
    for name in package.__all__
    if name not in BASES
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_of_torchjd(kind):
    """Aggregators, weightings and scalarizers all work, some steps long."""
    model = Quadratics()
    engine = samo.SAMO(model, TASKS, aggregator=KINDS[kind]())
    for _ in range(2):
        model.zero_grad()
        result = engine.backward(model.losses)
        grads = gradients(model)
        assert all(g.isfinite().all() for g in grads.values())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(grads[name], alpha=0.01)
    assert any(g.any() for g in grads.values())
    assert result.weights is None or result.weights.shape == (K,)


TWINS = [kind for kind in KINDS if kind + "Weighting" in KINDS]


@pytest.mark.parametrize("preset", ["erm", "samo"])
@pytest.mark.parametrize("kind", TWINS)
def test_a_weighting_is_its_aggregator(kind, preset):
    """`UPGradWeighting()` gives what `UPGrad()` gives, where TorchJD has both."""
    make, options = PRESETS[preset]
    seen = []
    for name in (kind, kind + "Weighting"):
        model = Quadratics()
        make(model, TASKS, aggregator=KINDS[name](), **options).backward(model.losses)
        seen.append(gradients(model))
    close(seen[0], seen[1], 1e-12)


OF_GRAMIAN = [n for n in aggregation.available() if aggregation.describe(n).needs == "gramian"]
WEIGHTS_FIRST = [
    n for n in aggregation.available() if aggregation.describe(n).needs in ("nothing", "losses")
]


class Listening(Weighting[PSDMatrix]):
    """A user's weighting that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, gramian, /):
        self.given.append(gramian)
        return torch.ones(len(gramian), dtype=gramian.dtype) / len(gramian)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrap", [lambda w: w, GramianWeightedAggregator])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_weighting_of_the_gramian_is_given(preset, wrap, dtype):
    """One Gramian a step (two if decomposed), K x K, in float64, on the CPU, of the rows."""
    make, options = PRESETS[preset]
    torch.manual_seed(0)
    model, weighting = Heads().to(dtype), Listening()
    x = torch.randn(5, 4, dtype=dtype)
    engine = make(model, TASKS, aggregator=wrap(weighting), **options)
    result = engine.backward(partial(model.losses, x=x))
    assert len(weighting.given) == 1  # the flat gradients' goes to a copy of the method
    (gramian,) = weighting.given
    assert gramian.shape == (K, K)
    assert gramian.dtype == torch.float64
    assert gramian.device.type == "cpu"
    assert torch.equal(gramian, result.gramian)
    if preset == "erm":
        parameters = list(model.trunk.parameters())
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()
            for loss in [model.losses([task], x)[task] for task in TASKS]
        ]
        matrix = torch.stack(rows)
        torch.testing.assert_close(gramian, matrix @ matrix.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OF_GRAMIAN)
def test_methods_of_the_gramian_never_see_the_matrix(name, monkeypatch):
    """Not even once: the K x m matrix is never made into one tensor, nor multiplied by itself."""

    def whole(self):
        raise AssertionError("the matrix was asked for")

    monkeypatch.setattr(Matrix, "whole", whole)
    seen = []
    gramian = Matrix.gramian

    def counted(self):
        seen.append(len(self.rows))
        return gramian(self)

    monkeypatch.setattr(Matrix, "gramian", counted)
    model = Quadratics()
    method = aggregation.create(name, K)
    assert isinstance(method, GramianWeightedAggregator)
    result = samo.SAMO(model, TASKS, aggregator=method).backward(model.losses)
    assert seen == [K]
    assert result.gramian is not None
    assert result.weights is not None
    with pytest.raises(AssertionError, match="asked for"):
        samo.SAMO(model, TASKS, aggregator="config").backward(model.losses)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def wide_model(n_tasks):
    torch.manual_seed(0)
    tasks = [f"t{i}" for i in range(n_tasks)]
    # More shared than own parameters, all tasks' together.
    return Heads(nn.Linear(32, 700), width=700, tasks=tasks), tasks


@pytest.mark.parametrize("preset", ["erm", "gsam", "samo"])
@pytest.mark.parametrize("name", [*WEIGHTS_FIRST, "aggregators of the count"])
def test_weights_first_methods_keep_no_matrix(name, preset):
    """Nothing of size K x m is made, K = 8, whatever the perturbation; one pass backward in ERM."""
    make, options = PRESETS[preset]
    model, tasks = wide_model(8)
    m = sum(p.numel() for p in model.trunk.parameters())
    x, passes = torch.randn(3, 32), []
    method: Any = agg.Mean()
    if name in WEIGHTS_FIRST:
        settings = {"weights": torch.rand(8)} if name == "constant" else {}
        method = aggregation.create(name, 8, **settings)

    def losses(asked):
        h = model.trunk(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: passes.append(len(asked)))
        return {task: model.heads[task](h).square().mean() for task in asked}

    engine = make(model, tasks, aggregator=method, **options)
    with Largest() as largest:
        result = engine.backward(losses)
    assert largest.numel <= m
    assert result.gramian is None
    assert result.weights is not None
    if preset == "erm":
        assert len(passes) == (1 if isinstance(method, sca.Scalarizer) else 8)
    if preset == "gsam":
        assert len(passes) == (2 if isinstance(method, sca.Scalarizer) else 9)


def test_a_matrix_is_kept_where_it_is_needed():
    """So that the measurement above can fail."""
    model, tasks = wide_model(8)
    m = sum(p.numel() for p in model.trunk.parameters())
    with Largest() as largest:
        samo.ERM(model, tasks, aggregator="mgda").backward(
            partial(model.losses, x=torch.randn(3, 32))
        )
    assert largest.numel >= 8 * m


@pytest.mark.parametrize("preset", PRESETS)
def test_own_parameters(preset):
    """A scalarizer's weights apply to the tasks' own parameters; an aggregator's do not."""
    make, options = PRESETS[preset]
    grads = {}
    for name, method in {
        "sum": sca.Sum(),
        "scalarizer": sca.Constant(weights=VECTOR),
        "aggregator": agg.Constant(weights=VECTOR),
    }.items():
        model = Quadratics()
        result = make(model, TASKS, aggregator=method, **options).backward(model.losses)
        grads[name] = gradients(model)
        if name != "sum":
            torch.testing.assert_close(result.weights, VECTOR, check_dtype=False)
    torch.testing.assert_close(grads["scalarizer"]["x"], grads["aggregator"]["x"])
    for task, weight in zip(TASKS, VECTOR, strict=True):
        g = grads["sum"][f"y.{task}"]
        torch.testing.assert_close(grads["aggregator"][f"y.{task}"], g)
        torch.testing.assert_close(grads["scalarizer"][f"y.{task}"], weight * g)


@pytest.mark.parametrize("make_method", [sca.UW, sca.IMTLL])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_scalarizer_s_parameters(preset, make_method):
    """They get ∂S/∂s at the natural losses, added to what is there."""
    make, options = PRESETS[preset]
    model, method = Quadratics(), make_method(K).double()
    (parameter,) = method.parameters()
    parameter.data.copy_(torch.tensor([0.3, -0.2, 0.1]))
    losses = torch.stack([loss.detach() for loss in model.losses(TASKS).values()])
    (want,) = torch.autograd.grad(method(losses), parameter)
    engine = make(model, TASKS, aggregator=method, **options)
    for times in (1, 2):
        engine.backward(model.losses)
        torch.testing.assert_close(parameter.grad, times * want, rtol=1e-12, atol=1e-12)


SCALARIZERS: dict[str, Callable[[], Any]] = {
    "ls": sca.Sum,
    "mean": sca.Mean,
    "uw": lambda: sca.UW(K),
    "gls": sca.GeometricMean,
    "stch": lambda: sca.STCH(mu=0.1),
    "imtl-l": lambda: sca.IMTLL(K),
}


@pytest.mark.parametrize("model", ["plain", "branches", "lstm", "one_output"])
@pytest.mark.parametrize("name", SCALARIZERS)
def test_erm_is_backward_of_the_scalarized_loss(name, model):
    """By name, ERM's gradients are those of S(l).backward()."""
    case, twin, scalarizer = problem(model), problem(model), SCALARIZERS[name]()
    losses = twin.losses(twin.model, TASKS)
    scalarizer(torch.stack(list(losses.values()))).backward()
    engine: Any = samo.ERM(case.model, TASKS, aggregator=name)
    engine.backward(partial(case.losses, case.model))
    close(gradients(case.model), gradients(twin.model), 1e-12)
    for mine, its in zip(engine.aggregator.parameters(), scalarizer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)


@pytest.mark.parametrize(
    "make",
    [
        agg.UPGrad,
        agg.MGDA,
        partial(agg.CAGrad, c=0.4),
        agg.AlignedMTL,
        agg.IMTLG,
        agg.ConFIG,
        partial(agg.FairGrad, alpha=2.0),
        partial(agg.TrimmedMean, trim_number=1),
    ],
)
def test_erm_is_torchjd(make):
    """ERM's gradients are those of TorchJD's `mtl_backward` and `jac_to_grad`."""
    torch.manual_seed(2)
    x = torch.randn(7, 4, dtype=torch.float64)
    model, twin = Heads().double(), Heads().double()
    h = twin.trunk(x)
    losses = [(1 + i) * (twin.heads[task](h) - i).square().mean() for i, task in enumerate(TASKS)]
    mtl_backward(losses, features=h)
    jac_to_grad(twin.trunk.parameters(), make())
    samo.ERM(model, TASKS, aggregator=make()).backward(partial(model.losses, x=x))
    close(gradients(model), gradients(twin), 1e-9)


@pytest.mark.parametrize("name", aggregation.available())
def test_epochs_and_steps_concern_some_methods_only(name):
    """`optimizer_stepped` and `epoch_ended` work for all; it is told where the first matters."""
    model = Quadratics()
    method = aggregation.create(name, K, **OPTIONS.get(name, {}))
    sharpness = aggregation.describe(name).needs == "sharpness"
    perturbation = samo.Perturbation(0.05, rho_own=0, alpha=1) if sharpness else None
    engine: Any = samo.Engine(model, TASKS, aggregator=method, perturbation=perturbation)
    assert engine.needs_losses_after_step == (name == "famo")
    engine.epoch_ended()
    engine.optimizer_stepped(model.losses(TASKS))  # before any step there is nothing to learn
    for _ in range(2):
        engine.backward(model.losses)
        engine.optimizer_stepped(model.losses(TASKS))
        engine.epoch_ended()
    assert all(p.grad is None or p.grad.isfinite().all() for p in engine.aggregator.parameters())


def test_dwa_and_famo_are_told():
    """DWA's weights follow the epochs' mean losses, FAMO's what a step has gained."""
    model = Quadratics()
    dwa = sca.DWA(temperature=1.0)
    engine = samo.ERM(model, TASKS, aggregator=dwa)

    def losses(factor, tasks):
        return {t: loss * (factor if t == "a" else 1) for t, loss in model.losses(tasks).items()}

    for factor in (1.0, 1.0, 0.5):  # the mean loss of task a halves from the last epoch but one
        engine.backward(partial(losses, factor))
        engine.epoch_ended()
    result: Any = engine.backward(model.losses)
    want = K * torch.softmax(torch.tensor([0.5, 1.0, 1.0]), dim=0)
    torch.testing.assert_close(result.weights, want, check_dtype=False)

    famo: Any = sca.FAMO(K, weight_decay=0.0)
    engine = samo.ERM(model, TASKS, aggregator=famo)
    engine.backward(model.losses)
    after = {task: loss.detach() for task, loss in model.losses(TASKS).items()}
    engine.optimizer_stepped(after | {"a": after["a"] / 2})
    assert (famo._w.detach().sign() == torch.tensor([-1.0, 1.0, 1.0])).all()


@pytest.mark.parametrize("kind", ["ConFIG", "ExcessMTL", "MGDA", "UPGrad", "PBI", "UW"])
@pytest.mark.parametrize("preset", ["erm", "samo"])
def test_autocast_around_the_step_is_for_the_model_only(preset, kind):
    """Around the step or in the closure, it is the same: methods compute in their own precision."""
    make, options = PRESETS[preset]
    package: Any = agg if hasattr(agg, kind) else sca
    settings = ARGUMENTS.get(kind, {})
    if kind == "UPGrad":
        settings = {"pref_vector": VECTOR}  # in float32, as users have it
    x, seen = torch.linspace(-2, 2, 28).view(7, 4).sin(), []
    for around in (False, True):
        model = Heads()

        def losses(tasks, model=model):
            with torch.autocast("cpu", torch.bfloat16):
                return model.losses(tasks, x)

        engine = make(model, TASKS, aggregator=getattr(package, kind)(**settings), **options)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            engine.backward(losses)
        seen.append(gradients(model))
    same(seen[0], seen[1])
