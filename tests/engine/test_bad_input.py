"""Bad input is refused in words that say what was found and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import Tensor, nn

import samo
from tests.problems import TASKS, Multi, X, losses, problem
from tests.snapshots import rng, values
from tests.tools import gradients, same

PRESETS: dict[str, Any] = {
    "ERM": samo.ERM,
    "GSAM": partial(samo.GSAM, rho=0.1),
    "MSAM": partial(samo.MSAM, rho=0.1),
    "LSAM": partial(samo.LSAM, rho=0.1),
    "FMTL": partial(samo.FMTL, rho=0.1),
    "SAMO": partial(samo.SAMO, rho=0.1),
}
PERTURBING = [name for name in PRESETS if name not in ("ERM", "MSAM")]
Table = dict[str, tuple[Callable[..., object], type[Exception], str]]


def parametrized(table: Table) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("call", "error", "message"), list(table.values()), ids=list(table)
    )


OTHER = nn.Linear(7, 3)
# What is of a wrong type is meant to be.
Perturbation: Any = samo.Perturbation
SPSA: Any = samo.SPSA
RandomDirection: Any = samo.RandomDirection
SAMO: Any = samo.SAMO


def engine(model, tasks=TASKS, aggregator="ls", **options):
    return samo.Engine(model, tasks, aggregator=aggregator, **options)


# What is given to the constructors


def of(n, make) -> Callable[..., object]:
    """An engine for n tasks, of a method that is made when the test runs."""
    return lambda m: engine(m, [f"task {i}" for i in range(n)], make())


ENGINES: Table = {
    "model": (
        lambda m: engine(m.parameters()),
        TypeError,
        r"model must be a torch.nn.Module; found generator",
    ),
    "no tasks": (
        lambda m: engine(m, []),
        ValueError,
        r"tasks must be a list of at least one task name.*found \[\]",
    ),
    "tasks numbers": (lambda m: engine(m, [0, 1]), ValueError, r"a string.*found \[0, 1\]"),
    "tasks None": (lambda m: engine(m, None), ValueError, r"tasks must be a list.*found None"),
    "tasks a string": (
        lambda m: engine(m, "seg"),
        ValueError,
        r"tasks must be a list.*found 'seg'",
    ),
    "empty name": (lambda m: engine(m, ["a", ""]), ValueError, r"tasks must be.*found \['a', ''\]"),
    "repeated tasks": (
        lambda m: engine(m, ["a", "b", "a"]),
        ValueError,
        r"tasks must be distinct; repeated: \['a'\]",
    ),
    "perturbation": (
        lambda m: engine(m, perturbation=0.05),
        TypeError,
        r"perturbation must be .* or None; found float",
    ),
    "decompose": (
        lambda m: engine(m, decompose=True),
        ValueError,
        r"decompose=True needs a samo.Perturbation",
    ),
    "negative seed": (
        lambda m: engine(m, seed=-1),
        ValueError,
        r"seed must be a non-negative integer; found -1",
    ),
    "seed": (lambda m: engine(m, seed=0.5), ValueError, r"seed must be .*integer; found 0.5"),
    # the aggregator
    "aggregator's class": (
        lambda m: engine(m, aggregator=agg.UPGrad),
        TypeError,
        r"aggregator must be a method's name .* or a TorchJD Aggregator, Weighting or Scalarizer",
    ),
    "aggregator None": (
        lambda m: engine(m, aggregator=None),
        TypeError,
        r"aggregator must be .*found NoneType",
    ),
    "aggregator's name": (
        lambda m: engine(m, aggregator="fairgard"),
        ValueError,
        r"no method 'fairgard', did you mean 'fairgrad'\? The methods are ls, mean, ",
    ),
    "another name": (
        lambda m: engine(m, aggregator="xyzzy"),
        ValueError,
        r"no method 'xyzzy'. The methods are ls, mean, ",
    ),
    "UW(3) of 2": (of(2, lambda: sca.UW(3)), ValueError, r"aggregator=UW.* does not fit 2 tasks"),
    "UW(3) of 1": (of(1, lambda: sca.UW(3)), ValueError, r"aggregator=UW.* does not fit 1 task"),
    "IMTLL(2) of 3": (of(3, lambda: sca.IMTLL(2)), ValueError, r"aggregator=IMTLL.*not fit 3"),
    "FAMO(4) of 3": (of(3, lambda: sca.FAMO(4)), ValueError, r"aggregator=FAMO.*not fit 3 tasks"),
    "STCH of 3": (
        of(3, lambda: sca.STCH(mu=0.1, weights=torch.ones(2))),
        ValueError,
        r"aggregator=STCH.*does not fit 3 tasks",
    ),
    "weights of losses": (
        of(2, lambda: sca.Constant(torch.ones(3))),
        ValueError,
        r"aggregator=Constant.* does not fit 2 tasks: .*shape \(3,\)",
    ),
    "weights of gradients": (
        of(4, lambda: agg.Constant(torch.ones(3))),
        ValueError,
        r"aggregator=.*Constant.* does not fit 4 tasks: .*3 rows",
    ),
    "NashMTL(3) of 2": (
        of(2, lambda: agg.NashMTL(n_tasks=3)),
        ValueError,
        r"aggregator=NashMTL\(n_tasks=3.* does not fit 2 tasks",
    ),
    "imtl for 3 of 4": (
        of(4, lambda: samo.aggregation.create("imtl", 3)),
        ValueError,
        r"does not fit 4 tasks",
    ),
    "pref_vector": (
        of(2, lambda: agg.UPGrad(pref_vector=torch.ones(3))),
        ValueError,
        r"aggregator=UPGrad(?s:.*) does not fit 2 tasks: .*3 rows",
    ),
    "Krum of too few": (
        of(3, lambda: agg.Krum(n_byzantine=1)),
        ValueError,
        r"aggregator=Krum.* does not fit 3 tasks: .*at least 4 rows",
    ),
    "krum of too few": (
        of(2, lambda: "krum"),
        ValueError,
        r"Method 'krum': it needs at least 3 tasks; found n_tasks=2",
    ),
    "TrimmedMean of too few": (
        of(2, lambda: agg.TrimmedMean(trim_number=1)),
        ValueError,
        r"aggregator=TrimmedMean.* does not fit 2 tasks: .*at least 3",
    ),
    "GradDrop's leak": (
        of(2, lambda: agg.GradDrop(leak=torch.zeros(3))),
        ValueError,
        r"aggregator=GradDrop.* does not fit 2 tasks: .*3 rows",
    ),
    # the partition
    "own is no mapping": (
        lambda m: engine(m, own=[m.heads["a"]]),
        TypeError,
        r"own must map task names to parameters or modules; found list",
    ),
    "own of an unknown task": (
        lambda m: engine(m, own={"a": m.heads["a"], "z": m.heads["b"]}),
        samo.PartitionError,
        r"own= names unknown tasks \['z'\]; the tasks are \['a', 'b', 'c'\]",
    ),
    "nothing shared": (
        lambda m: engine(m, shared=[]),
        samo.PartitionError,
        r"shared= names no parameter; it needs at least one",
    ),
    "claimed twice": (
        lambda m: engine(m, shared=[m.trunk, m.heads["a"]], own={"a": m.heads["a"].weight}),
        samo.PartitionError,
        r"'heads.a.weight' is declared twice: in shared= and in own\['a'\]",
    ),
    "claimed by two tasks": (
        lambda m: engine(m, own={"a": m.heads, "b": m.heads["b"]}),
        samo.PartitionError,
        r"'heads.b.weight' is declared twice: in own\['a'\] and in own\['b'\]",
    ),
    "names": (
        lambda m: engine(m, shared=["trunk"]),
        samo.PartitionError,
        r"Expected parameters or modules in shared= and own=, found str",
    ),
    # the perturbation
    "negative rho": (
        lambda m: SAMO(m, TASKS, aggregator="ls", rho=-0.1),
        ValueError,
        r"rho must be a finite number >= 0; found -0.1",
    ),
    "rho nan": (lambda _: Perturbation(float("nan")), ValueError, r"rho must .*found nan"),
    "rho inf": (lambda _: Perturbation(float("inf")), ValueError, r"rho must .*found inf"),
    "rho a string": (lambda _: Perturbation("0.1"), ValueError, r"rho must .*found '0.1'"),
    "rho None": (lambda _: Perturbation(None), ValueError, r"rho must .*found None"),
    "alpha above": (
        lambda m: SAMO(m, TASKS, aggregator="ls", alpha=1.5),
        ValueError,
        r"alpha must be a number in \[0, 1\]; found 1.5",
    ),
    "alpha below": (lambda _: Perturbation(1, alpha=-1), ValueError, r"alpha .*found -1"),
    "alpha nan": (
        lambda _: Perturbation(1, alpha=float("nan")),
        ValueError,
        r"alpha must be a number in \[0, 1\]; found nan",
    ),
    "alpha a string": (lambda _: Perturbation(1, alpha="1"), ValueError, r"alpha .*found '1'"),
    "estimator": (
        lambda m: SAMO(m, TASKS, aggregator="ls", local="spsa"),
        TypeError,
        r"local must be an estimator such as samo.SPSA\(\); found str",
    ),
    "estimator's class": (
        lambda _: Perturbation(1, local=SPSA),
        TypeError,
        r"local must be an estimator such as samo.SPSA\(\); found ABCMeta",
    ),
    "where": (
        lambda _: Perturbation(1, where="norm"),
        TypeError,
        r"where must be a function of a parameter's name and the parameter; found str",
    ),
    # estimators
    "mu": (lambda _: SPSA(mu=0), ValueError, r"mu must be a positive, finite .*found 0"),
    "mu negative": (lambda _: SPSA(mu=-1), ValueError, r"mu must be .*found -1"),
    "mu nan": (lambda _: SPSA(mu=float("nan")), ValueError, r"mu must be .*found nan"),
    "mu inf": (lambda _: SPSA(mu=float("inf")), ValueError, r"mu must be .*found inf"),
    "mu a string": (lambda _: SPSA(mu="0.1"), ValueError, r"mu must be .*found '0.1'"),
    "samples": (
        lambda _: SPSA(samples=0),
        ValueError,
        r"samples must be an integer of at least 1; found 0",
    ),
    "samples not whole": (lambda _: SPSA(samples=2.0), ValueError, r"samples .*found 2.0"),
    "noise": (
        lambda _: SPSA(noise="uniform"),
        ValueError,
        r"noise must be one of \['gaussian', 'rademacher'\]; found 'uniform'",
    ),
    "normalization": (
        lambda _: SPSA(normalization=None),
        ValueError,
        r"normalization must be one of \['layerwise', 'global', 'none'\]; found None",
    ),
    "random's noise": (
        lambda _: RandomDirection(noise=1),
        ValueError,
        r"noise must be one of \['gaussian', 'rademacher'\]; found 1",
    ),
    "random's normalization": (
        lambda _: RandomDirection(normalization="layer"),
        ValueError,
        r"normalization must be one of .*found 'layer'",
    ),
}


@parametrized(ENGINES)
def test_a_constructor_refuses(call, error, message):
    model = problem("plain").model
    before, numbers = model.state_dict(), rng()
    with pytest.raises(error, match=message):
        call(model)
    same(model.state_dict(), before)
    same(rng(), numbers)


# What is given to `backward`, or returned by the closure


def replaced(**by):
    """A closure with some of the losses replaced, by what functions make of them."""

    def closure(model, tasks):
        out: dict[str, Any] = dict(losses(model, tasks))
        return {task: by[task](loss) if task in by else loss for task, loss in out.items()}

    return closure


CLOSURES: Table = {
    "unknown tasks": (
        lambda m, _: {"a": m(["a"])["a"].mean(), "depth": m(["b"])["b"].mean()},
        ValueError,
        r"returned unknown tasks \['depth'\]; the tasks are \['a', 'b', 'c'\]",
    ),
    "nothing": (lambda m, _: None, TypeError, r"must return a mapping .*found NoneType"),
    "a list": (
        lambda m, tasks: list(losses(m, tasks).values()),
        TypeError,
        r"must return a mapping of task names to losses; found list",
    ),
    "a tensor": (
        lambda m, tasks: sum(losses(m, tasks).values()),
        TypeError,
        r"must return a mapping of task names to losses; found Tensor",
    ),
    "no task": (
        lambda m, _: {},
        ValueError,
        r"was asked for \['a', 'b', 'c'\] and returned \[\]",
    ),
    "not a scalar": (
        replaced(b=lambda loss: loss.expand(4)),
        ValueError,
        r"loss of task 'b' must be a scalar .*found shape \[4\].*\.mean\(\)",
    ),
    "one element": (
        replaced(b=lambda loss: loss.view(1)),
        ValueError,
        r"loss of task 'b' must be a scalar .*found shape \[1\]",
    ),
    "a number": (
        replaced(c=lambda loss: float(loss.detach())),
        TypeError,
        r"loss of task 'c' must be a tensor; found float",
    ),
    "an integer": (
        replaced(c=lambda loss: torch.tensor(1)),
        ValueError,
        r"loss of task 'c' must be floating-point; found torch.int64",
    ),
    "complex": (
        replaced(c=lambda loss: loss * 1j),
        ValueError,
        r"loss of task 'c' must be floating-point; found torch.complex128",
    ),
    "detached": (
        replaced(a=Tensor.detach),
        ValueError,
        r"loss of task 'a' has no graph .*detached, computed under no_grad",
    ),
}


def refused(model, made, closure, error, message):
    """Asserts that a step is refused and that nothing is changed; returns the error."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    grads = [parameter.grad for parameter in model.parameters()]
    before, numbers = values(model), rng()
    with pytest.raises(error, match=message) as caught:
        made.backward(closure)
    same(values(model), before)
    same(rng(), numbers)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    return caught.value


def works(model, made):
    """Asserts that the next step is that of an engine that saw nothing."""
    model.zero_grad()
    made.backward(partial(losses, model))
    twin = problem("plain").model
    twin.load_state_dict(model.state_dict())
    fresh = samo.Engine(
        twin,
        TASKS,
        aggregator=type(made.aggregator)(),
        perturbation=made.perturbation,
        decompose=made.decompose,
    )
    if not isinstance(getattr(made.perturbation, "local", None), samo.SPSA):
        fresh.backward(partial(losses, twin))
        same(gradients(model), gradients(twin))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("preset", ["ERM", "FMTL"])
@parametrized(CLOSURES)
def test_what_a_closure_returns_is_refused(preset, call, error, message):
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator="mgda")
    refused(model, made, partial(call, model), error, message)
    works(model, made)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_closure_without_an_argument_is_explained(autocast):
    """Errors of the closure's own are raised as they are."""
    model = problem("plain").model
    made = samo.ERM(model, TASKS, aggregator="ls")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        without: Any = lambda: losses(model, TASKS)  # noqa: E731
        refused(model, made, without, TypeError, r"one argument.*def losses\(tasks\)")
        broken: Any = lambda tasks: losses(model, tasks)["a"]()  # type: ignore[operator]  # noqa: E731
        refused(model, made, broken, TypeError, "'Tensor' object is not callable")


@pytest.mark.parametrize("preset", PERTURBING)
@parametrized({name: CLOSURES[name] for name in ("nothing", "not a scalar", "a number")})
def test_what_a_closure_returns_later_in_a_step_is_refused(preset, call, error, message):
    """In the first replay that is asked for the task at fault."""
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator="mgda")
    calls = []

    def closure(tasks):
        calls.append(tasks)
        return (call if len(calls) > 1 else losses)(model, tasks)

    refused(model, made, closure, error, message)
    works(model, made)


@pytest.mark.parametrize("preset", PERTURBING)
@pytest.mark.parametrize("other", [{}, {"z": 0}])
def test_a_closure_that_answers_for_other_tasks_than_asked_is_refused(preset, other):
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator="mgda")
    calls = []

    def closure(tasks):
        calls.append(tasks)
        if len(calls) == 1:
            return losses(model, tasks)
        return other or losses(model, [t for t in TASKS if t not in tasks] or ["a"])

    message = (
        r"unknown tasks \['z'\]"
        if other
        else r"was asked for \['(a|a', 'b', 'c)'\] and returned \['(b', 'c|a)'\]"
    )
    refused(model, made, closure, ValueError, message)
    works(model, made)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.tensor(1.0), TypeError, r"losses must be a function of task names .*found Tensor"),
        ({"a": torch.tensor(1.0)}, TypeError, r"losses must be a function .*found dict"),
        ([torch.tensor(1.0)], TypeError, r"losses must be a function .*found Tensor"),
        (None, TypeError, r"losses must be a function .*found NoneType"),
        ([], ValueError, r"losses is an empty list; give a closure"),
        ((), ValueError, r"losses is an empty list; give a closure"),
    ],
    ids=["tensor", "dict", "tensors", "None", "empty", "empty tuple"],
)
def test_losses_instead_of_a_closure_are_refused(given, error, message):
    model = problem("plain").model
    refused(model, engine(model), given, error, message)


MASKS: Table = {
    "shape": (lambda n, p: torch.ones(3, dtype=torch.bool), ValueError, r"torch.bool of \(3,\)"),
    "dtype": (lambda n, p: torch.ones_like(p), ValueError, r"found torch.float64 of \(6, 5\)"),
    "nothing": (lambda n, p: None, TypeError, r"found None"),
    "a string": (lambda n, p: "yes", TypeError, r"found 'yes'"),
    "a number": (lambda n, p: 0.5, TypeError, r"found 0.5"),
}


@pytest.mark.parametrize("preset", PERTURBING)
@parametrized(MASKS)
def test_a_wrong_mask_is_refused(preset, call, error, message):
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator="ls", where=call)
    message = r"where\('trunk.0.weight', ..\) must return True, False or a boolean mask.*" + message
    refused(model, made, partial(losses, model), error, message)


class Words(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, sparse=True)

    def forward(self, x):
        return self.embedding((10 * x[:, 0].abs()).long() % 7)


class SparseHead(Words):
    """A head that looks words up as well."""

    def forward(self, x):
        return (super().forward(x) * x).sum(1, keepdim=True)


@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("where", ["trunk", "heads.b"])
def test_sparse_gradients_are_refused(preset, aggregator, where):
    """The message names the parameter; what a step is for cannot be done with them."""
    model, name = Multi(Words()), "trunk.embedding.weight"
    if where != "trunk":
        model, name = Multi(nn.Linear(5, 4)), "heads.b.embedding.weight"
        model.heads["b"] = SparseHead()
    model.double()
    made = PRESETS[preset](model, TASKS, aggregator=aggregator)
    message = rf"gradient of parameter '{name}' is sparse .*sparse=False"
    refused(model, made, partial(losses, model), ValueError, message)


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_of_another_model_are_refused(preset):
    model, other = problem("plain").model, problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator="mgda")
    message = "No task's loss reaches a trainable parameter of the model"
    refused(model, made, partial(losses, other), samo.PartitionError, message)
    model.requires_grad_(False)
    refused(model, made, partial(losses, other), samo.PartitionError, message)


def test_a_method_that_learns_after_the_step_refuses_other_losses():
    model = problem("plain").model
    made = samo.ERM(model, TASKS, aggregator="famo")
    made.backward(partial(losses, model))
    before = {n: v.clone() for n, v in made.aggregator.state_dict().items()}
    for given in ({}, {"a": torch.tensor(1.0), "z": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match=r"some of the tasks \['a', 'b', 'c'\].*found \["):
            made.optimizer_stepped(given)
    same(made.aggregator.state_dict(), before)


def test_a_method_s_own_counter_is_no_epoch_to_end():
    """NashMTL's weighting has a number by the name of what DWA has as a function."""
    weighting: Any = agg.NashMTL(n_tasks=3).weighting
    assert not callable(weighting.step)
    engine(problem("plain").model, aggregator=weighting).epoch_ended()


# States


OTHERS: dict[str, tuple[Callable[..., samo.Engine], str]] = {
    "tasks": (
        lambda m: samo.SAMO(m, ["a", "b"], aggregator="mgda"),
        r"tasks is \['a', 'b'\] in the state and \['a', 'b', 'c'\] in the engine",
    ),
    "order": (
        lambda m: samo.SAMO(m, TASKS[::-1], aggregator="mgda"),
        r"tasks is \['c', 'b', 'a'\]",
    ),
    "aggregator": (
        lambda m: samo.SAMO(m, TASKS, aggregator="upgrad"),
        r"aggregator is UPGrad.* in the state and MGDA.* in the engine",
    ),
    "rho_own": (
        lambda m: samo.SAMO(m, TASKS, aggregator="mgda", rho_own=0.3),
        r"perturbation is .*rho_own=0.3.* in the state and .*rho_own=None.* in the engine",
    ),
    "momentum": (
        lambda m: samo.MSAM(m, TASKS, aggregator="mgda"),
        r"perturbation is Momentum.* in the state and Perturbation.* in the engine",
    ),
    "estimator": (
        lambda m: samo.SAMO(m, TASKS, aggregator="mgda", local=samo.RandomDirection()),
        r"perturbation is .*RandomDirection.* in the state and .*SPSA.* in the engine",
    ),
    "no perturbation": (
        lambda m: samo.ERM(m, TASKS, aggregator="mgda"),
        r"perturbation is None in the state",
    ),
    "decompose": (
        lambda m: samo.SAMO(m, TASKS, aggregator="mgda", decompose=True),
        r"decompose is True in the state and False in the engine",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_configuration_is_refused(other):
    make, message = OTHERS[other]
    model = problem("plain").model
    made = samo.SAMO(model, TASKS, aggregator="mgda")
    made.backward(partial(losses, model))
    theirs = make(problem("plain").model)
    theirs.backward(lambda tasks: losses(theirs.model, tasks))
    before = made.state_dict()
    with pytest.raises(ValueError, match=r"The state has another configuration: .*" + message):
        made.load_state_dict(theirs.state_dict())
    after = made.state_dict()
    same(after["streams"], before["streams"])
    assert {k: v for k, v in after.items() if k != "streams"} == {
        k: v for k, v in before.items() if k != "streams"
    }


# Numbers that are not finite


class Faulty:
    """A closure in which one task's loss, or its gradient alone, is not finite at some points.

    Args:
        model: The model.
        where: At which points: "natural", "probing" or "perturbed".
        fault: Makes a term of the loss from a parameter and zero.
        name: The parameter.
    """

    def __init__(self, model, where, fault, name="trunk.0.weight"):
        self.model, self.where, self.fault, self.name = model, where, fault, name
        self.before = {n: p.detach().clone() for n, p in model.named_parameters()}

    def point(self):
        if all(torch.equal(p, self.before[n]) for n, p in self.model.named_parameters()):
            return "natural"
        return "perturbed" if torch.is_grad_enabled() else "probing"

    def __call__(self, tasks):
        out = losses(self.model, tasks)
        if self.point() == self.where and "b" in tasks:
            out["b"] = out["b"] + self.fault(self.model.get_parameter(self.name))
        return out


LOSS_FAULTS = {
    "nan": lambda p: p.sum() * float("nan"),
    "-inf": lambda p: (p.sum() * 0).log(),
}
STAGES = {
    "natural": "natural loss",
    "probing": "loss at a probing point",
    "perturbed": "perturbed loss",
}


@pytest.mark.parametrize("fault", LOSS_FAULTS)
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize(
    ("preset", "where"),
    [
        *[(preset, "natural") for preset in PRESETS],
        *[(preset, "perturbed") for preset in PERTURBING],
        ("SAMO", "probing"),
    ],
)
def test_a_loss_that_is_not_finite_is_named(preset, where, aggregator, fault):
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator=aggregator)
    closure = Faulty(model, where, LOSS_FAULTS[fault])
    message = rf"The {STAGES[where]} of task 'b' is not finite"
    error = refused(model, made, closure, samo.NonFiniteError, message)
    assert (error.tasks, error.stage) == (("b",), STAGES[where])
    works(model, made)


@pytest.mark.parametrize("name", ["trunk.0.weight", "heads.b.weight"])
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize(
    ("preset", "where"),
    [
        *[(preset, "natural") for preset in PRESETS],
        *[(preset, "perturbed") for preset in PERTURBING],
    ],
)
def test_a_gradient_that_is_not_finite_is_named(preset, where, aggregator, name):
    """Though the loss is finite; and also where only the gradient of a sum of losses was made."""
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator=aggregator)
    closure = Faulty(model, where, _root_of_zero, name)
    # Where the gradient itself is what is ascended along, it is found there.
    stage = rf"({where} gradient|ascent direction)" if where == "natural" else f"{where} gradient"
    message = rf"The {stage} of task 'b' is not finite"
    error = refused(model, made, closure, samo.NonFiniteError, message)
    assert error.tasks == ("b",)
    assert re.fullmatch(stage, error.stage)
    works(model, made)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("aggregator", ["ls", "mgda", "graddrop"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_gradient_of_a_micro_batch_that_is_not_finite_is_named(preset, aggregator, number):
    model = problem("plain").model
    made = PRESETS[preset](model, TASKS, aggregator=aggregator)
    faulty = Faulty(model, "perturbed" if preset in PERTURBING else "natural", _root_of_zero)
    closures: list[Any] = [partial(losses, model), partial(losses, model)]
    closures[number] = faulty
    error = refused(model, made, closures, samo.NonFiniteError, "gradient of task 'b' is not ")
    assert error.tasks == ("b",)
    works(model, made)


def _root_of_zero(parameter):
    """Zero, with a gradient that is not a number."""
    return (parameter * 0).sum().sqrt()


@pytest.mark.parametrize("preset", ["ERM", "GSAM"])
def test_where_only_the_sum_is_not_finite_all_are_named(preset):
    """Two gradients that are finite, and whose sum overflows: neither is to blame alone."""
    model = Multi(nn.Linear(5, 4)).float()

    def closure(tasks):
        h = model.trunk(X.float()).mean()
        heads = model.get_submodule("heads")
        own = {task: heads.get_parameter(f"{task}.weight").sum() for task in tasks}
        return {task: 3e38 * (h - h.detach()) + own[task] for task in tasks}

    made = PRESETS[preset](model, TASKS, aggregator="ls")
    refused(model, made, closure, samo.NonFiniteError, r"of tasks 'a', 'b', 'c' is not finite")


def test_weights_that_are_not_finite_are_refused():
    """A method that fails is not hidden in the gradients."""

    class Broken(sca.Scalarizer):
        def forward(self, values, /):
            return (values * torch.tensor([1.0, float("nan"), 1.0])).sum()

    model = problem("plain").model
    made = samo.ERM(model, TASKS, aggregator=Broken())
    refused(model, made, partial(losses, model), samo.NonFiniteError, r"The weight of tasks 'a', ")
