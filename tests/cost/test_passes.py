"""The recorded passes are those of the step, and the bare loop repeats them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import samo
from samo.cost import (
    CASES,
    SUBJECTS,
    Arithmetic,
    Backward,
    Forward,
    Workload,
    build,
    case_sizes,
    meter,
    recorded,
)
from samo.engine import Engine

CPU = torch.device("cpu")
METER = meter(CPU)
# Forwards with a graph, evaluations without one, heads and backward passes of K tasks, by the
# definitions of the methods.
EXPECTED: dict[str, Callable[[int], tuple[int, int, int, int]]] = {
    "erm": lambda k: (1, 0, k, k),
    "erm-representation": lambda k: (1, 0, k, 1),
    "msam": lambda k: (1, 0, k, k),
    "msam-representation": lambda k: (1, 0, k, 1),
    "heads": lambda k: (2, 0, 2 * k, k + 1),
    "heads-representation": lambda k: (2, 0, 2 * k, 2),
    "gsam": lambda k: (2, 0, 2 * k, k + 1),
    "gsam-representation": lambda k: (2, 0, 2 * k, 2),
    "lsam": lambda k: (1 + k, 0, 2 * k, 2 * k),
    "fmtl": lambda k: (1 + k, 0, 2 * k, 2 * k),
    "samo": lambda k: (1 + k, 2 * k, 4 * k, k + 1),
    "samo-one-sided": lambda k: (1 + k, k, 3 * k, k + 1),
    "samo-rademacher": lambda k: (1 + k, 2 * k, 4 * k, k + 1),
    "samo-exact-gradient": lambda k: (1 + k, 0, 2 * k, 2 * k),
    "samo-task-groups": lambda k: in_groups(k, 4),
    "samo-last-layers": lambda k: (1 + k, 0, 2 * k, 2 * k + 1),
    "samo-previous-gradient": lambda k: (1 + k, 0, 2 * k, k + 1),
    "samo-random-direction": lambda k: (1 + k, 0, 2 * k, k + 1),
}
# Random bytes with K tasks and m shared parameters.
DRAWN: dict[str, Callable[[int, int], int]] = {
    "samo": lambda k, m: 4 * k * m,
    "samo-one-sided": lambda k, m: 4 * k * m,
    "samo-rademacher": lambda k, m: k * signs(m),
    "samo-random-direction": lambda k, m: 4 * k * m,
    "samo-task-groups": lambda k, m: signs(m) if k > 4 else 0,  # of the sketches
}


def signs(m: int) -> int:
    """Returns the bytes of m bits, in words of 64."""
    return 8 * math.ceil(m / 64)


def in_groups(k: int, m: int) -> tuple[int, int, int, int]:
    """A point and a gradient per group, besides the mean; K gradients to group the tasks."""
    if k <= m:
        return 1 + k, 0, 2 * k, 1 + k + k
    return 1 + m, 0, 2 * k, 1 + k + m + k


def small(case: str, tasks: int | None = None) -> Workload:
    return build(case, case_sizes(case, "small", tasks, None), CPU)


def passes(workload: Workload, name: str, method: str = "fairgrad") -> tuple[Arithmetic, int]:
    step = SUBJECTS[name].create(workload, method)
    return recorded(step, workload.losses(), workload.model)


def engine_of(step: object) -> Engine:
    """The engine of which a step is the method ``backward``."""
    engine = getattr(step, "__self__", None)
    assert isinstance(engine, Engine)
    return engine


class Counting:
    """Records the calls of the closure and of autograd."""

    def __init__(self, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
        self.losses_of, self.calls = workload.losses(), list[tuple[tuple[str, ...], bool]]()
        self.backwards = list[tuple[int, tuple[int, ...], bool]]()
        names = {id(p): i for i, p in enumerate(workload.model.parameters())}
        grad = torch.autograd.grad

        def counted(outputs, inputs, *args, **kwargs):
            which = tuple(names[id(p)] for p in inputs)
            self.backwards.append((len(outputs), which, bool(kwargs.get("retain_graph"))))
            return grad(outputs, inputs, *args, **kwargs)

        monkeypatch.setattr(torch.autograd, "grad", counted)

    def losses(self, tasks: Sequence[str]) -> Mapping[str, Tensor]:
        self.calls.append((tuple(tasks), torch.is_grad_enabled()))
        return self.losses_of(tasks)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("tasks", [2, 5])
def test_counts_of_passes_and_random_bytes(name: str, tasks: int) -> None:
    workload = small("mlp", tasks)
    arithmetic, noise = passes(workload, name)
    assert tuple(arithmetic.counts.values()) == EXPECTED[name](tasks)
    drawn = DRAWN.get(name, lambda _k, _m: 0)
    assert noise == drawn(tasks, sum(p.numel() for p in workload.shared))


def test_every_estimator_is_a_subject() -> None:
    assert EXPECTED.keys() == {name for name, subject in SUBJECTS.items() if subject.recorded}
    kinds = [kind for kind in vars(samo).values() if isinstance(kind, type)]
    estimators = [k for k in kinds if issubclass(k, samo.LocalGradient) and k.__module__ != "abc"]
    made = set()
    for name, subject in SUBJECTS.items():
        if name.startswith("samo"):
            perturbation = engine_of(subject.create(small("mlp"), "ls")).perturbation
            assert isinstance(perturbation, samo.Perturbation)
            made.add(type(perturbation.local))
    assert made == {kind for kind in estimators if kind is not samo.LocalGradient}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_has_its_level(name: str) -> None:
    subject = SUBJECTS[name]
    assert engine_of(subject.create(small("mlp"), "fairgrad")).level == subject.level


@pytest.mark.parametrize(
    ("case", "name"),
    [("mlp", name) for name in EXPECTED if not name.endswith("-representation")]
    + [(case, "samo") for case in CASES if case != "mlp"],
)
def test_the_bare_loop_repeats_the_passes_of_the_step(
    case: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same calls of the closure and of autograd, in order, with the same parameters."""
    workload = small(case)
    step = SUBJECTS[name].create(workload, "mgda")
    arithmetic, _ = recorded(step, workload.losses(), workload.model)
    of_step = Counting(workload, monkeypatch)
    step(of_step.losses)
    monkeypatch.undo()
    of_loop = Counting(workload, monkeypatch)
    arithmetic.run(of_loop.losses, workload.model)
    assert of_loop.calls == of_step.calls
    assert of_loop.backwards == of_step.backwards
    assert len(of_loop.calls) + len(of_loop.backwards) == len(arithmetic.operations)


@pytest.mark.parametrize("case", CASES)
def test_at_the_representation_the_bare_loop_is_plain_backprop(case: str) -> None:
    """All losses are differentiated together, with respect to all parameters.

    The first pass of the heads-only step stops at the heads.
    """
    workload = small(case)
    tasks, count = tuple(workload.tasks), len(list(workload.model.parameters()))
    backward = Backward(tuple((0, task) for task in tasks), tuple(range(count)), retain=False)
    arithmetic, _ = passes(workload, "erm-representation")
    assert arithmetic.operations == (Forward(tasks, graph=True), backward)
    own = {id(p) for part in workload.own.values() for m in part for p in m.parameters()}
    heads = [i for i, p in enumerate(workload.model.parameters()) if id(p) in own]
    for name, first in (("gsam", list(range(count))), ("heads", heads)):
        operations = passes(workload, f"{name}-representation")[0].operations
        (natural, perturbed) = (o for o in operations if isinstance(o, Backward))
        assert sorted(natural.parameters) == first
        assert perturbed.parameters == tuple(range(count))


def test_fixed_weights_need_one_backward_pass() -> None:
    workload = small("mlp")
    assert passes(workload, "erm", "ls")[0].counts["backwards"] == 1
    assert passes(workload, "gsam", "ls")[0].counts["backwards"] == 2


def test_which_steps_have_equal_passes() -> None:
    workload = small("mlp")
    of = {name: passes(workload, name)[0] for name in EXPECTED}
    assert of["samo"] == of["samo-rademacher"]
    assert of["samo-previous-gradient"] == of["samo-random-direction"]
    assert of["samo-exact-gradient"] == of["fmtl"]
    assert of["lsam"] != of["fmtl"]  # as many, in another order
    assert of["erm"] != of["erm-representation"]


def test_the_bare_loop_changes_neither_gradients_nor_parameters() -> None:
    workload = small("celeba")
    before = [p.detach().clone() for p in workload.model.parameters()]
    passes(workload, "lsam")[0].run(workload.losses(), workload.model)
    workload.model.zero_grad()
    passes(workload, "lsam")[0].run(workload.losses(), workload.model)
    for parameter, value in zip(workload.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("how", ["backward", "autograd.backward", "grad"])
def test_every_way_to_differentiate_is_recorded(how: str) -> None:
    model = torch.nn.Linear(2, 1)

    def step(losses: Callable[[Sequence[str]], Mapping[str, Tensor]]) -> None:
        loss = losses(["a"])["a"]
        if how == "backward":
            loss.backward()
        elif how == "autograd.backward":
            torch.autograd.backward([loss], inputs=list(model.parameters()))
        else:
            torch.autograd.grad(loss, list(model.parameters()))

    arithmetic, _ = recorded(step, lambda tasks: {"a": model(torch.ones(2)).sum()}, model)
    backward = Backward(((0, "a"),), (0, 1), retain=False)
    assert arithmetic.operations == (Forward(("a",), graph=True), backward)


def test_a_step_without_a_bare_arithmetic_raises_an_error() -> None:
    model = torch.nn.Linear(2, 1)
    with pytest.raises(RuntimeError, match="lead from the closure's losses"):
        recorded(
            lambda losses: (2 * losses(["a"])["a"]).backward(),
            lambda tasks: {"a": model(torch.ones(2)).sum()},
            model,
        )


def test_dropout_does_not_count_as_random_bytes_of_the_step() -> None:
    workload = small("transformer")
    assert passes(workload, "gsam")[1] == 0


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention is not batched
@pytest.mark.parametrize("case", CASES)
def test_torchjd_gives_the_gradients_of_erm(case: str) -> None:
    """Otherwise the timings would not be of the same step.

    With the Gramian alone, the tasks' own gradients are weighted as well, hence only the trunk's
    are compared. The attention of SegNet-MTAN belongs to the tasks, but TorchJD counts it as trunk.
    """
    workload = small(case)
    if case == "transformer":
        workload.model.eval()  # dropout
    own = {task: [head] for task, (head, *_) in workload.own.items()}
    samo.ERM(workload.model, workload.tasks, aggregator="mgda", own=own).backward(workload.losses())
    expected = [p.grad for p in workload.outside("heads")]
    for name, subject in SUBJECTS.items():
        if name.startswith("torchjd"):
            workload.model.zero_grad()
            subject.create(workload, "mgda")(workload.losses())
            for mine, theirs in zip(expected, workload.outside("heads"), strict=True):
                torch.testing.assert_close(mine, theirs.grad, rtol=1e-3, atol=1e-5)


def test_the_steps_of_torchjd_leave_no_hooks() -> None:
    workload = small("mlp")
    for name, subject in SUBJECTS.items():
        if name.startswith("torchjd"):
            subject.create(workload, "fairgrad")(workload.losses())
    for module in workload.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("case", CASES)
def test_plain_backprop_differentiates_the_sum(case: str) -> None:
    workload = small(case)
    workload.model.eval()
    SUBJECTS["plain"].create(workload, "fairgrad")(workload.losses())
    parameters = list(workload.model.parameters())
    losses = workload.losses()(workload.tasks)
    expected = torch.autograd.grad(list(losses.values()), parameters)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_declared_partition_of_mtan_is_that_of_the_graph() -> None:
    workload = small("segnet-mtan")
    found = samo.ERM(workload.model, workload.tasks, aggregator="mgda")
    declared = engine_of(SUBJECTS["erm"].create(workload, "mgda"))
    gramians = [engine.backward(workload.losses()).gramian for engine in (found, declared)]
    torch.testing.assert_close(*gramians)


def test_the_meter_returns_the_peak_of_torch_s_allocations() -> None:
    def work() -> Tensor:
        first = torch.zeros(1000)
        second = first + 1  # both: 8000 bytes
        del first
        third = torch.ones(500)  # 6000
        return second.add(third[0])  # 10000

    assert METER.peak(work) == 10_000
    assert METER.peak(lambda: None) == 0


def test_the_bare_loop_frees_graphs_like_the_engine() -> None:
    """Holding K graphs at a time would quadruple the peak of the bare loop from 2 to 8 tasks.

    The activations of one graph dominate the peak, and do not depend on K.
    """
    peaks = {}
    for tasks in (2, 8):
        workload = build("mlp", {**case_sizes("mlp", "small", tasks, None), "batch": 512}, CPU)
        arithmetic, _ = passes(workload, "samo")
        peaks[tasks] = METER.peak(partial(arithmetic.run, workload.losses(), workload.model))
    assert peaks[8] < 1.3 * peaks[2]


@pytest.mark.parametrize("name", ["erm", "msam", "heads", "gsam"])
def test_the_memory_at_the_representation(name: str) -> None:
    """At most that of plain backprop, K numbers for each at the cut, and three for each parameter.

    So no step holds two graphs, not even where the first backward pass stops at the heads.
    """
    workload = build("celeba", {"tasks": 3, "batch": 32, "width": 4, "side": 32}, CPU)
    shared = sum(p.numel() for p in workload.shared)
    at_the_cut = 32 * 32  # examples × features

    def peak(name: str) -> int:
        step = SUBJECTS[name].create(workload, "fairgrad")
        step(workload.losses(2))
        workload.model.zero_grad()
        return METER.peak(lambda: step(workload.losses()))

    limit = peak("plain") + 4 * (3 * at_the_cut + 3 * shared)
    assert peak(f"{name}-representation") <= limit
