"""Which parameters are shared and which are a task's own: found, declared, and over time."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import samo
from tests.problems import MODELS, TASKS, X, losses, problem
from tests.tools import close, gradients, same

PRESETS: dict[str, Any] = {
    "ERM": samo.ERM,
    "GSAM": partial(samo.GSAM, rho=0.1),
    "LSAM": partial(samo.LSAM, rho=0.1),
    "FMTL": partial(samo.FMTL, rho=0.1),
    "SAMO": partial(samo.SAMO, rho=0.1),
    "SAMO, previous": partial(samo.SAMO, rho=0.1, local=samo.PreviousGradient()),
}


def parts(engine):
    """The names of the shared parameters and of the tasks' own, as the engine has them."""
    partition = engine._setting.partition
    names = {id(p): n for n, p in engine.model.named_parameters()}
    shared = [names[id(p)] for p in partition.shared]
    return shared, {t: [names[id(p)] for p in own] for t, own in partition.own.items()}


def task_gradients(model, tasks, closure=losses):
    """Each task's gradients by name, by autograd alone; None where it does not reach."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    inputs, found = list(named.values()), {}
    for task, loss in closure(model, tasks).items():
        grads = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
        found[task] = dict(zip(named, grads, strict=True))
    return found


def summed(model, tasks, closure=losses):
    """What the sum of the losses puts into ``.grad``."""
    total: dict[str, Tensor | None] = dict.fromkeys(n for n, _ in model.named_parameters())
    for grads in task_gradients(model, tasks, closure).values():
        for name, grad in grads.items():
            before = total[name]
            if grad is not None:
                total[name] = grad if before is None else before + grad
    return total


# Found


@pytest.mark.parametrize("name", MODELS)
def test_the_partition_is_found(name):
    case = problem(name)
    engine = samo.ERM(case.model, TASKS, aggregator="mgda")
    engine.backward(partial(losses, case.model))
    assert parts(engine) == (list(case.shared), dict(case.own))


class Misleading(nn.Module):
    """A model whose parameters have names that say the opposite of what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.head_a = nn.Linear(5, 4)
        self.shared = nn.Linear(4, 1)
        self.trunk = nn.ModuleDict({"a": nn.Linear(4, 1)})
        self.decoders = nn.ModuleDict({"c": nn.Linear(4, 4), "own": nn.Linear(4, 1)})

    def forward(self, tasks):
        h = self.decoders["c"](self.head_a(X).tanh())
        heads = {"a": self.shared, "b": self.trunk["a"], "c": self.decoders["own"]}
        return {task: heads[task](h).squeeze(-1) for task in tasks}


def test_names_are_not_parsed():
    model = Misleading().double()
    engine = samo.ERM(model, TASKS, aggregator="mgda")
    engine.backward(partial(losses, model))
    own = {"a": "shared", "b": "trunk.a", "c": "decoders.own"}
    assert parts(engine) == (
        [f"{n}.{kind}" for n in ("head_a", "decoders.c") for kind in ("weight", "bias")],
        {task: [f"{name}.{kind}" for kind in ("weight", "bias")] for task, name in own.items()},
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_with_one_task_all_is_its_own_and_the_step_is_sam_s(preset):
    """One radius over all parameters together: θ + ρ ∇l / ‖∇l‖, whatever α and the estimator."""
    case = problem("plain", ["b"])
    engine = PRESETS[preset](case.model, ["b"], aggregator="mgda")
    engine.backward(partial(losses, case.model))
    assert parts(engine)[0] == []
    model = problem("plain").model
    if preset != "ERM":
        natural = {n: g for n, g in task_gradients(model, ["b"])["b"].items() if g is not None}
        norm = torch.stack([g.square().sum() for g in natural.values()]).sum().sqrt()
        with torch.no_grad():
            for n, p in model.named_parameters():
                if n in natural:
                    p.add_(0.1 * natural[n] / norm)
    close(gradients(case.model), task_gradients(model, ["b"])["b"])


def test_a_loss_may_be_a_parameter_itself():
    """A leaf has no graph behind it; and it moves with the parameters, as its value must not."""

    class Leaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Parameter(torch.tensor(2.0))
            self.mine = nn.Parameter(torch.tensor(3.0))

        def losses(self, tasks):
            both = {"a": self.both, "b": self.both.square(), "c": self.mine}
            return {task: both[task] for task in tasks}

    for local in (samo.ExactGradient(), samo.SPSA(normalization="none")):
        model = Leaf()
        engine = samo.SAMO(model, TASKS, aggregator="ls", rho=0.5, alpha=0.0, local=local)
        result = engine.backward(model.losses)
        assert parts(engine) == (["both"], {"a": [], "b": [], "c": ["mine"]})
        wanted = {"a": 2.5, "b": 6.25, "c": 3.5}
        with torch.no_grad():
            model.both.add_(100)
            model.mine.add_(100)
        assert {t: float(v) for t, v in result.losses.items()} == {"a": 2.0, "b": 4.0, "c": 3.0}
        assert result.perturbed_losses is not None
        assert {t: float(v) for t, v in result.perturbed_losses.items()} == wanted
        assert model.both.grad == 1 + 2 * 2.5
        assert model.mine.grad == 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("aggregator", ["ls", "mgda"])
@pytest.mark.parametrize("how", ["found", "declared", "own"])
def test_what_no_task_reaches_and_what_is_frozen_gets_no_gradient(preset, aggregator, how):
    model = problem("branches").model
    frozen = ["trunk.0.weight", "heads.b.bias", "unused.bias"]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    own = {task: model.get_submodule(f"heads.{task}") for task in TASKS}
    shared = [model.get_submodule(name) for name in ("trunk", "branch", "unused")]
    declared: dict[str, Any] = {"declared": {"shared": shared, "own": own}, "own": {"own": own}}
    options = declared.get(how, {})
    engine = PRESETS[preset](model, TASKS, aggregator=aggregator, **options)
    seen = set()

    def closure(tasks):
        for name, p in model.named_parameters():
            if not torch.equal(p, before[name]):
                seen.add(name)
        return losses(model, tasks)

    engine.backward(closure)
    without = {*frozen, "unused.weight"}
    assert {n for n, p in model.named_parameters() if p.grad is None} == without
    if preset != "ERM":
        assert seen | {"trunk.0.weight"} >= {n for n in before if n.startswith("trunk")}
        # To probe for what is declared and has no effect is pointless, but the user's word.
        assert seen.isdisjoint(without if how == "found" else frozen)
    if preset == "ERM" and aggregator == "ls":
        close(gradients(model), summed(model, TASKS))


def test_a_tied_parameter_is_one():
    """It counts once in the norm of the perturbation, and is moved once."""
    case = problem("tied")
    model = case.model
    engine = samo.GSAM(model, TASKS, aggregator="mgda", rho=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved: list[Tensor] = []

    def closure(tasks):
        away = [(model.get_parameter(n) - before[n]).square().sum() for n in case.shared]
        moved.append(torch.stack(away).sum().sqrt().detach())
        return losses(model, tasks)

    engine.backward(closure)
    assert [round(float(m), 12) for m in moved] == [0.0, 0.1]
    assert len(case.shared) == len({id(model.get_parameter(n)) for n in case.shared})


# Declared


def heads(model):
    return {task: model.heads[task] for task in TASKS}


DECLARED: dict[str, Any] = {
    "modules": lambda m: {"shared": m.trunk, "own": heads(m)},
    "lists of modules": lambda m: {
        "shared": [m.trunk[0], m.trunk[2]],
        "own": {t: [h] for t, h in heads(m).items()},
    },
    "parameters": lambda m: {
        "shared": m.trunk.parameters(),
        "own": {t: h.parameters() for t, h in heads(m).items()},
    },
    "nested": lambda m: {
        "shared": [[m.trunk[0].weight, [m.trunk[0].bias]], (m.trunk[2],)],
        "own": heads(m) | {"a": (m.heads["a"].weight, {m.heads["a"].bias})},
    },
    "repeated": lambda m: {"shared": [m.trunk, m.trunk[0], m.trunk[0].weight], "own": heads(m)},
    "only shared": lambda m: {"shared": m.trunk},
    "only own": lambda m: {"own": heads(m)},
    "shared and one task's": lambda m: {"shared": m.trunk, "own": {"b": m.heads["b"]}},
    "a list": lambda m: {"own": heads(m) | {"c": list(m.heads["c"].parameters())}},
}


@pytest.mark.parametrize("form", DECLARED)
def test_declared_in_any_form_it_is_the_one_that_is_found(form):
    case, other = problem("plain"), problem("plain")
    engine = samo.LSAM(case.model, TASKS, aggregator="mgda", **DECLARED[form](case.model))
    found = samo.LSAM(other.model, TASKS, aggregator="mgda")
    engine.backward(partial(losses, case.model))
    found.backward(partial(losses, other.model))
    assert parts(engine) == parts(found) == (list(case.shared), dict(case.own))
    same(gradients(case.model), gradients(other.model))


def test_where_only_own_is_declared_all_else_is_shared():
    """Also what one task alone reaches, and what none does."""
    case = problem("branches")
    own_a = {"a": case.model.get_submodule("heads.a")}
    engine = samo.ERM(case.model, TASKS, aggregator="ls", own=own_a)
    engine.backward(partial(losses, case.model))
    shared, own = parts(engine)
    assert own == {"a": ["heads.a.weight", "heads.a.bias"], "b": [], "c": []}
    assert sorted(shared + own["a"]) == sorted(n for n, _ in case.model.named_parameters())
    close(gradients(case.model), summed(problem("branches").model, TASKS))


def test_a_parameter_of_one_task_may_be_declared_shared():
    case = problem("plain")
    model = case.model
    shared = [model.get_submodule("trunk"), model.get_submodule("heads.a")]
    engine = samo.ERM(model, TASKS, aggregator="ls", shared=shared)
    engine.backward(partial(losses, model))
    assert parts(engine)[0] == [*case.shared, "heads.a.weight", "heads.a.bias"]
    close(gradients(model), summed(problem("plain").model, TASKS))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            lambda m: {"own": {"a": [m.heads["a"], m.trunk[2]]}},
            r"'trunk.2.weight' is declared task 'a''s own, but the loss of \['b', 'c'\] depends on",
        ),
        (
            lambda m: {"shared": m.trunk[0]},
            r"'trunk.2.weight' is reached by tasks \['a', 'b', 'c'\] but is not in shared=",
        ),
    ],
)
def test_a_declaration_that_the_graph_contradicts_is_refused(declare, message):
    model = problem("plain").model
    engine = samo.SAMO(model, TASKS, aggregator="mgda", **declare(model))
    for _ in range(2):
        with pytest.raises(samo.PartitionError, match=message):
            engine.backward(partial(losses, model))
    assert all(p.grad is None for p in model.parameters())


def test_tasks_that_share_nothing_are_refused():
    model = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS}).double()

    def closure(tasks):
        return {task: model[task](X).square().mean() for task in tasks}

    with pytest.raises(samo.PartitionError, match="share no trainable parameter"):
        samo.ERM(model, TASKS, aggregator="mgda").backward(closure)


# Over time


def fresh_step(preset, model, tasks, closure=losses):
    """The gradients of an engine that has no past."""
    twin = copy.deepcopy(model)
    twin.zero_grad()
    torch.manual_seed(0)
    samo_engine = PRESETS[preset](twin, TASKS, aggregator="mgda")
    samo_engine.backward(lambda asked: closure(twin, [t for t in asked if t in tasks]))
    return gradients(twin)


@pytest.mark.parametrize("preset", ["ERM", "GSAM", "LSAM", "FMTL"])
def test_parameters_may_be_frozen_and_thawed_between_steps(preset):
    model = problem("plain").model
    engine = PRESETS[preset](model, TASKS, aggregator="mgda")
    schedule: list[set[str]] = [
        {"trunk.0.weight", "trunk.0.bias", "heads.a.weight"},
        {"trunk.0.bias"},
        set(),
        {"heads.b.weight", "heads.b.bias", "trunk.2.weight"},
        set(),
    ]
    for frozen in schedule:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        model.zero_grad()
        engine.backward(partial(losses, model))
        assert {n for n, p in model.named_parameters() if p.grad is None} == frozen
        same(gradients(model), fresh_step(preset, model, TASKS))


@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_thawed_in_a_batch_without_a_task_is_not_kept_from_it(resumed):
    """A parameter that b alone reaches then may be shared, as is seen when a comes back."""
    model = problem("plain").model
    model.get_parameter("trunk.0.weight").requires_grad_(False)
    engine = samo.LSAM(model, TASKS, aggregator="mgda", rho=0.1)
    engine.backward(partial(losses, model))
    if resumed:
        state = engine.state_dict()
        engine = samo.LSAM(model, TASKS, aggregator="mgda", rho=0.1)
        engine.load_state_dict(state)
    model.get_parameter("trunk.0.weight").requires_grad_(True)
    engine.backward(lambda tasks: losses(model, [t for t in tasks if t == "b"]))
    model.zero_grad()
    engine.backward(partial(losses, model))
    assert "trunk.0.weight" in parts(engine)[0]
    same(gradients(model), fresh_step("LSAM", model, TASKS))


@pytest.mark.parametrize("first", ["ab", "bc"])
@pytest.mark.parametrize("preset", PRESETS)
def test_tasks_may_appear_later(preset, first):
    case = problem("branches")
    model = case.model
    engine = PRESETS[preset](model, TASKS, aggregator="mgda")
    engine.backward(lambda tasks: losses(model, [t for t in tasks if t in first]))
    reached = {n: 1 for n, p in model.named_parameters() if p.grad is not None}
    wanted = summed(problem("branches").model, list(first))
    assert reached.keys() == {n for n, g in wanted.items() if g is not None}
    for _ in range(2):
        model.zero_grad()
        engine.backward(partial(losses, model))
    assert parts(engine) == (list(case.shared), dict(case.own))
    if "SAMO" not in preset:  # which draws, or remembers
        same(gradients(model), fresh_step(preset, model, TASKS))


class Skipping(nn.Module):
    """A shared branch and one of task a's own, each of which is used in some steps only."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(5, 4)
        self.branch = nn.Linear(4, 4)
        self.extra = nn.Linear(4, 4)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})
        self.uses: set[str] = set()

    def forward(self, tasks):
        h = self.trunk(X).tanh()
        if "branch" in self.uses:
            h = h + self.branch(h).tanh()
        if "extra" in self.uses:
            inputs = {"a": h + self.extra(h).tanh(), "b": h, "c": h}
        else:
            inputs = dict.fromkeys(TASKS, h)
        return {task: self.heads[task](inputs[task]).squeeze(-1) for task in tasks}


# Every order, with one replay of the batch or several in turn.
ORDERS = itertools.permutations(["", "branch", "extra", "both"], 3)


@pytest.mark.parametrize(
    ("order", "preset"), list(zip(ORDERS, itertools.cycle(["ERM", "FMTL"]), strict=False))
)
def test_a_branch_may_be_skipped_in_any_step(preset, order):
    torch.manual_seed(0)
    model = Skipping().double()
    engine = PRESETS[preset](model, TASKS, aggregator="mgda")
    for uses in order:
        model.uses = {"branch", "extra"} if uses == "both" else {uses}
        model.zero_grad()
        engine.backward(partial(losses, model))
        close(gradients(model), fresh_step(preset, model, TASKS))


def test_a_branch_may_be_reached_first_in_a_later_micro_batch():
    """Its gradient is averaged with the zero of the micro-batch that skipped it."""
    torch.manual_seed(0)
    model = Skipping().double()
    engine = samo.ERM(model, TASKS, aggregator="mean")

    def closure(uses, model=model):
        def evaluate(tasks):
            model.uses = uses
            return losses(model, tasks)

        return evaluate

    engine.backward([closure(set()), closure(set())])
    for uses in ({"branch"}, {"extra"}):
        model.zero_grad()
        engine.backward([closure(set()), closure(uses)])
        twin = copy.deepcopy(model)
        twin.zero_grad()
        for used in (set(), uses):
            loss = torch.stack([*closure(used, twin)(TASKS).values()]).mean() / 2
            loss.backward()
        close(gradients(model), gradients(twin))


# Compiled


def compiled_model(kind):
    """A model with a compiled part, what to call, and a twin that is not compiled."""
    model, eager = problem("plain").model, problem("plain").model
    called: Any = model
    if kind == "whole":
        called = torch.compile(model, backend="aot_eager")
    elif kind == "in place":
        model.compile(backend="aot_eager")
    else:
        trunk = model.get_submodule("trunk")
        trunk.compile(backend="aot_eager")
    return model, called, eager


@pytest.fixture
def _forget_compiled_code():
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_forget_compiled_code")
@pytest.mark.parametrize("kind", ["whole", "in place", "losses"])
def test_in_a_compiled_whole_the_partition_is_to_be_declared(kind):
    """The compiled graph is one node: from any output, it seems to reach all parameters."""
    model, called, eager = compiled_model("whole" if kind == "losses" else kind)
    closure: Any = partial(losses, called)
    if kind == "losses":
        closure = torch.compile(partial(losses, model), backend="aot_eager")
    with torch.enable_grad():
        loss = closure(TASKS)["a"]
    nodes, names = [loss.grad_fn], set()
    while nodes:
        if (node := nodes.pop()) is not None:
            names.add(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert "CompiledFunctionBackward" in names, "nothing was compiled"
    for _ in range(2):
        with pytest.raises(samo.PartitionError, match=r"Declare them: Engine\(.., shared="):
            samo.LSAM(model, TASKS, aggregator="mgda").backward(closure)
    own = {task: model.get_submodule(f"heads.{task}") for task in TASKS}
    for options in ({"own": own}, {"own": own, "shared": model.get_submodule("trunk")}):
        model.zero_grad()
        eager.zero_grad()
        samo.LSAM(model, TASKS, aggregator="mgda", **options).backward(closure)
        samo.LSAM(eager, TASKS, aggregator="mgda").backward(partial(losses, eager))
        close(gradients(model), gradients(eager))


@pytest.mark.usefixtures("_forget_compiled_code")
def test_around_a_compiled_trunk_the_partition_is_found():
    model, called, eager = compiled_model("trunk")
    engine = samo.LSAM(model, TASKS, aggregator="mgda")
    engine.backward(partial(losses, called))
    samo.LSAM(eager, TASKS, aggregator="mgda").backward(partial(losses, eager))
    case = problem("plain")
    assert parts(engine) == (list(case.shared), dict(case.own))
    close(gradients(model), gradients(eager))
