"""Task groups and last layers against naive estimates, closed forms and other libraries."""

from __future__ import annotations

import math
from functools import partial
from itertools import chain
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import nn
from torchjd.aggregation import Constant

import samo
from samo.model import distances
from samo.perturbations._groups import joined, sketch
from samo.tensors import Layout
from tests import reference
from tests.problems import TASKS, losses, problem
from tests.tools import Quadratics, close, gradients

RHO = 0.1


def exact_gradients(case):
    """∇l_i of the shared parameters, by the reference's evaluation: one long tensor a task."""
    found = []
    for task in case.tasks:
        _, grads = reference.evaluate(case, task, {})
        found.append(torch.cat([grads[n].flatten() for n in case.shared]))
    return torch.stack(found)


def check(name, engine_options, estimates, *, alpha):
    """One step of an engine against the naive step with these local estimates."""
    case = problem(name)
    torch.manual_seed(3)
    local = estimates(case)
    torch.manual_seed(3)
    want, _ = reference.step(
        case,
        lambda rows, _: torch.tensor([1.0, 2.0, 0.5]).double() @ rows,
        torch.ones_like,
        rho=RHO,
        alpha=alpha,
        estimate="previous",
        previous=local,
    )
    torch.manual_seed(3)
    engine = samo.SAMO(
        case.model,
        TASKS,
        aggregator=Constant(torch.tensor([1.0, 2.0, 0.5]).double()),
        rho=RHO,
        alpha=alpha,
        **engine_options,
    )
    engine.backward(partial(losses, case.model))
    close({n: g for n, g in gradients(case.model).items() if g is not None}, want)
    return case, engine


MODELS = ["plain", "batchnorm", "dropout_heads", "tied", "branches", "one_output", "transformer"]


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("name", MODELS)
def test_groups_are_the_naive_step(name, alpha):
    """ĝ_i is the mean of the exact gradients over the group that scipy's average linkage finds."""

    def estimates(case):
        exact = exact_gradients(case)
        away = 1 - nn.functional.cosine_similarity(exact[:, None], exact[None], dim=-1)
        tree = linkage(squareform(away.numpy(), checks=False), "average")
        labels = torch.as_tensor(fcluster(tree, 2, "maxclust"))
        return torch.stack([exact[labels == label].mean(0) for label in labels])

    _, engine = check(name, {"local": samo.TaskGroups(groups=2)}, estimates, alpha=alpha)
    known = engine.state_dict()["local"]
    assert sorted(task for group in known["groups"] for task in group) == TASKS


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "share", "last"),
    [
        ("plain", 0.3, ["trunk.2.weight", "trunk.2.bias"]),
        ("plain", 0.01, ["trunk.2.bias"]),
        ("plain", 1, ["trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias"]),
        ("batchnorm", 0.2, ["trunk.3.weight", "trunk.3.bias"]),
        ("tied", 0.2, ["trunk.out.weight", "trunk.out.bias"]),
        ("dropout_heads", 0.5, ["trunk.0.weight", "trunk.0.bias"]),
    ],
)
def test_last_layers_are_the_naive_step(name, share, last, alpha):
    """ĝ_i is exact for the parameters of the last layers, and the mean gradient for the others."""

    def estimates(case):
        named = dict(case.model.named_parameters())
        mask = torch.cat([torch.full((named[n].numel(),), n in last) for n in case.shared])
        exact = exact_gradients(case)
        return torch.where(mask, exact, exact.mean(0))

    check(name, {"local": samo.LastLayers(share)}, estimates, alpha=alpha)


@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("decompose", [False, True])
def test_one_group_is_gsam_and_groups_of_one_are_exact(aggregator, decompose):
    """M = 1: one ε along the mean gradient. M = K, and the share 1: each along its own."""
    seen = {}
    cases: dict[str, dict[str, Any]] = {
        "gsam": {"alpha": 1.0},
        "one": {"alpha": 0.0, "local": samo.TaskGroups(1)},
        "one, joined": {"alpha": 0.3, "local": samo.TaskGroups(1)},
        "lsam": {"alpha": 0.3, "local": samo.ExactGradient()},
        "each": {"alpha": 0.3, "local": samo.TaskGroups(3)},
        "all layers": {"alpha": 0.3, "local": samo.LastLayers(1)},
    }
    for name, options in cases.items():
        case = problem("dropout")
        torch.manual_seed(2)
        engine = samo.SAMO(
            case.model, TASKS, aggregator=aggregator, rho=0.3, decompose=decompose, **options
        )
        engine.backward(partial(losses, case.model))
        seen[name] = gradients(case.model)
    close(seen["one"], seen["gsam"], 1e-12)
    close(seen["one, joined"], seen["gsam"], 1e-12)
    close(seen["each"], seen["lsam"], 1e-12)
    close(seen["all layers"], seen["lsam"], 1e-12)


def test_groups_of_quadratics():
    """Two tasks that pull one way and one that pulls the other: A_i (x + ε_G - c_i)."""
    model = Quadratics(own=False)
    x = model.x.detach().clone()
    model.c["a"], model.c["b"] = x - 1, x + 1
    model.A["c"], model.c["c"] = 2 * model.A["a"], model.c["a"] + 0.01
    engine = samo.SAMO(model, TASKS, aggregator="ls", rho=0.3, alpha=0.0, local=samo.TaskGroups(2))
    engine.backward(model.losses)
    assert engine.state_dict()["local"]["groups"] == [["a", "c"], ["b"]]
    want = torch.zeros_like(x)
    for group in (["a", "c"], ["b"]):
        u = torch.stack([model.gradient(task) for task in group]).mean(0)
        for task in group:
            want += model.gradient(task, x + 0.3 * u / u.norm())
    close(gradients(model), {"x": want}, 1e-12)


@settings(max_examples=40, deadline=None)
@given(k=st.integers(2, 12), m=st.integers(1, 12), d=st.integers(2, 20), seed=st.integers(0, 10**6))
def test_joining_is_average_linkage(k, m, d, seed):
    """The same partition as scipy's, for gradients in general position."""
    rows = torch.randn(k, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit = nn.functional.normalize(rows)
    likeness = unit @ unit.T
    groups = joined(likeness, m)
    away = squareform((1 - likeness).numpy(), checks=False)
    # Average linkage of a similarity: heights never fall, so a count of clusters cuts the tree.
    labels = fcluster(linkage(away, "average"), m, "maxclust")
    want = [[i for i in range(k) if labels[i] == label] for label in dict.fromkeys(labels)]
    assert groups == want


@pytest.mark.parametrize("size", [300, 50_000])
def test_sketches_keep_inner_products(size):
    """Exactly for vectors that are no longer than a sketch, else up to √(2/4096) |x| |y| or so."""
    generator = torch.Generator().manual_seed(0)
    layout = Layout([torch.empty(size - 100, dtype=torch.float64), torch.empty(10, 10).double()])
    vectors = [layout.empty() for _ in range(6)]
    signs = layout.empty()
    signs.flats[0].bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    for vector in vectors:
        vector.flats[0].normal_(generator=generator)
    vectors[1].add_(vectors[0].tensors)
    rows = torch.stack([vector.flats[0] for vector in vectors])
    sketches = torch.stack([sketch(vector, signs) for vector in vectors])
    error = (sketches @ sketches.T - rows @ rows.T) / rows.norm(dim=1).outer(rows.norm(dim=1))
    if size <= 4096:
        assert error.abs().max() < 1e-12
    else:
        assert 0 < error.abs().max() < 5 * math.sqrt(2 / 4096)


def passes(monkeypatch, aggregator, steps, **options):
    """Forward passes with a graph, and backward passes, of each step."""
    case = problem("plain")
    calls: dict[str, Any] = {"forward": 0, "backward": []}
    grad = torch.autograd.grad

    def counting(outputs, inputs, *args, **kwargs):
        inputs = list(inputs)
        asked = [n for n, p in named.items() if any(p is q for q in inputs)]
        calls["backward"] += [asked] if asked else []  # a scalarizer's weights have none
        return grad(outputs, inputs, *args, **kwargs)

    named = dict(case.model.named_parameters())
    monkeypatch.setattr(torch.autograd, "grad", counting)

    def counted(tasks):
        assert torch.is_grad_enabled()
        calls["forward"] += 1
        return losses(case.model, tasks)

    engine = samo.SAMO(case.model, TASKS, aggregator=aggregator, **options)
    seen = []
    for _ in range(steps):
        calls |= {"forward": 0, "backward": []}
        engine.backward(counted)
        seen.append((calls["forward"], calls["backward"]))
    return seen


@pytest.mark.parametrize(
    ("aggregator", "alpha", "backwards"),
    [
        ("upgrad", 0.0, 2 + 3),
        ("upgrad", 0.5, 1 + 2 + 3),
        ("ls", 0.0, 2 + 2),
        ("ls", 0.5, 1 + 2 + 2),
    ],
)
def test_passes_of_groups(monkeypatch, aggregator, alpha, backwards):
    """M + 1 forward and M + K (or 2M) backward passes; K more where tasks are divided."""
    local = samo.TaskGroups(groups=2, every=3)
    seen = passes(monkeypatch, aggregator, 5, alpha=alpha, local=local)
    assert [forwards for forwards, _ in seen] == [3] * 5
    assert [len(b) for _, b in seen] == [backwards + (3 if i in (0, 3) else 0) for i in range(5)]


def test_passes_of_last_layers(monkeypatch):
    """K short backward passes, which ask for nothing in front of the last layers, nor for heads."""
    ((forwards, backwards),) = passes(monkeypatch, "upgrad", 1, local=samo.LastLayers(0.3))
    assert forwards == 1 + 3
    assert len(backwards) == 1 + 3 + 3
    assert [b for b in backwards if "trunk.0.weight" not in b] == [
        ["trunk.2.weight", "trunk.2.bias"]
    ] * 3


def test_groups_are_kept_and_renewed():
    """They stay for n steps, whoever is present; a task that is in none renews them."""
    model = Quadratics(tasks=tuple("abcde"), own=False)
    engine = samo.SAMO(model, list("abcde"), aggregator="ls", local=samo.TaskGroups(2, every=4))

    def step(present):
        asked = []

        def closure(tasks):
            asked.append([t for t in tasks if t in present])
            return model.losses(asked[-1])

        engine.backward(closure)
        return asked[1:], engine.state_dict()["local"]

    first, state = step("abcd")
    assert first == state["groups"]
    assert sorted(chain(*first)) == list("abcd")
    assert state["age"] == 1
    again, state = step("abd")
    assert again == [[t for t in g if t != "c"] for g in first if g != ["c"]]
    assert state["age"] == 2
    alone, state = step("ab")  # no more tasks than groups
    assert alone == [["a"], ["b"]]
    assert state["age"] == 2
    every, state = step("abcde")
    assert sorted(chain(*every)) == list("abcde")
    assert state == {"groups": every, "age": 1}


def test_micro_batches():
    """Two closures that are one: the step of one, for groups and for last layers."""
    for local in (samo.TaskGroups(2), samo.LastLayers(0.3)):
        seen = []
        for times in (1, 2):
            case = problem("plain")
            engine = samo.SAMO(case.model, TASKS, aggregator="mgda", local=local)
            engine.backward([partial(losses, case.model)] * times)
            seen.append(gradients(case.model))
        close(seen[0], seen[1], 1e-12)


def test_distances_are_counted_from_the_losses():
    """In a chain of layers they fall towards the end; a skip connection is the shorter way."""
    layers = [nn.Linear(3, 3) for _ in range(4)]
    h = torch.ones(2, 3)
    for layer in layers:
        h = layer(h).tanh()
    far = distances([h.sum(), h.mean()])
    found = [far[id(layer.weight)] for layer in layers]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    x = first.exp()
    skipped = distances([((x * second).exp().exp() + first).sum()])
    assert skipped[id(first)] < skipped[id(second)]
    assert distances([first]) == {id(first): 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samo.TaskGroups(0), "groups must be an integer of at least 1; found 0"),
        (
            lambda: samo.TaskGroups(cast(Any, 2.0)),
            "groups must be an integer of at least 1; found 2.0",
        ),
        (lambda: samo.TaskGroups(True), "groups must be an integer of at least 1; found True"),
        (lambda: samo.TaskGroups(2, every=0), "every must be an integer of at least 1; found 0"),
        (lambda: samo.LastLayers(0), r"share must be a number in \(0, 1\]; found 0"),
        (lambda: samo.LastLayers(1.5), r"share must be a number in \(0, 1\]; found 1.5"),
        (lambda: samo.LastLayers(float("nan")), r"share must be .* found nan"),
        (lambda: samo.LastLayers(cast(Any, "1")), r"share must be .* found '1'"),
    ],
)
def test_bad_arguments(make: Any, message):
    """The argument, the value found, and the values allowed."""
    with pytest.raises(ValueError, match=message):
        make()
