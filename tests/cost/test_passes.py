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
    one_pass,
    recorded,
)

CPU = torch.device("cpu")
METER = meter(CPU)
# Forwards with a graph, evaluations without one, heads and backward passes of K tasks, by the
# definitions of the methods.
EXPECTED: dict[str, Callable[[int], tuple[int, int, int, int]]] = {
    "torchjd": lambda k: (1, 0, k, k),
    "torchjd-batched": lambda k: (1, 0, k, k),
    "erm": lambda k: (1, 0, k, k),
    "gsam": lambda k: (2, 0, 2 * k, k + 1),
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
    engine = SUBJECTS[name].engine(workload, method)
    return recorded(engine.backward, workload.losses(), workload.model)


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
    assert EXPECTED.keys() == SUBJECTS.keys()
    kinds = [kind for kind in vars(samo).values() if isinstance(kind, type)]
    estimators = [k for k in kinds if issubclass(k, samo.LocalGradient) and k.__module__ != "abc"]
    made = set()
    for name, subject in SUBJECTS.items():
        if name.startswith("samo"):
            perturbation = subject.engine(small("mlp"), "ls").perturbation
            assert isinstance(perturbation, samo.Perturbation)
            made.add(type(perturbation.local))
    assert made == {kind for kind in estimators if kind is not samo.LocalGradient}


@pytest.mark.parametrize(
    ("case", "name"),
    [("mlp", name) for name in EXPECTED if not name.startswith("torchjd")]
    + [(case, "samo") for case in CASES if case != "mlp"],
)
def test_the_bare_loop_repeats_the_passes_of_the_step(
    case: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same calls of the closure and of autograd, in order, with the same parameters."""
    workload = small(case)
    engine = SUBJECTS[name].engine(workload, "mgda")
    engine.backward(workload.losses())
    arithmetic, _ = recorded(engine.backward, workload.losses(), workload.model)
    of_step = Counting(workload, monkeypatch)
    engine.backward(of_step.losses)
    monkeypatch.undo()
    of_loop = Counting(workload, monkeypatch)
    arithmetic.run(of_loop.losses, workload.model)
    assert of_loop.calls == of_step.calls
    assert of_loop.backwards == of_step.backwards
    assert len(of_loop.calls) + len(of_loop.backwards) == len(arithmetic.operations)


def test_fixed_weights_need_one_backward_pass() -> None:
    workload = small("mlp")
    assert passes(workload, "erm", "ls")[0].counts["backwards"] == 1
    assert passes(workload, "gsam", "ls")[0].counts["backwards"] == 2


def test_equal_passes_have_equal_keys() -> None:
    workload = small("mlp")
    keys = {name: passes(workload, name)[0].key for name in EXPECTED}
    assert keys["samo"] == keys["samo-rademacher"]
    assert keys["torchjd"] == keys["erm"]
    assert keys["samo-previous-gradient"] == keys["samo-random-direction"]
    assert keys["samo-exact-gradient"] == keys["fmtl"]
    assert keys["lsam"] != keys["fmtl"]  # as many, in another order
    assert len(set(keys.values())) == 9


def test_the_bare_loop_changes_neither_gradients_nor_parameters() -> None:
    workload = small("celeba")
    before = [p.detach().clone() for p in workload.model.parameters()]
    passes(workload, "lsam")[0].run(workload.losses(), workload.model)
    workload.model.zero_grad()
    passes(workload, "lsam")[0].run(workload.losses(), workload.model)
    for parameter, value in zip(workload.model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_one_pass_is_one_forward_and_one_backward_pass() -> None:
    workload = small("lenet")
    arithmetic = one_pass(workload.tasks, workload.model)
    assert tuple(arithmetic.counts.values()) == (1, 0, 2, 1)
    arithmetic.run(workload.losses(), workload.model)


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


def test_torchjd_gives_the_gradients_of_erm() -> None:
    """Otherwise the timings would not be of the same step."""
    for case in ("mlp", "segnet-mtan"):
        workload = small(case)
        found = {}
        for name in ("erm", "torchjd", "torchjd-batched"):
            workload.model.zero_grad()
            SUBJECTS[name].run(workload, "mgda")(workload.losses(), METER)
            found[name] = [p.grad for p in workload.model.parameters()]
        for name in ("torchjd", "torchjd-batched"):
            for mine, theirs in zip(found["erm"], found[name], strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


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
