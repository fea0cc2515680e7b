"""PCGrad and GradVac: one pair at a time as TorchJD does, given the orders, and the orders."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchjd.aggregation
from torch import Tensor

from samo.aggregation import GradVac, GradVacWeighting, PCGrad, PCGradWeighting, _gradvac, _pcgrad
from samo.aggregation._pcgrad import random_orders
from samo.aggregation.solvers import to_array
from tests.gramians import draw, gramian_of, jacobians, of_spectrum

N_TASKS = [1, 2, 3, 11, 40]


def orders_for_both(n_tasks: int, monkeypatch: pytest.MonkeyPatch, *, calls: int = 1) -> None:
    """Gives the same orders to TorchJD's class and to the package's."""
    drawn = [random_orders(n_tasks).tolist() for _ in range(calls)]
    ours, theirs = iter(drawn), iter(list(itertools.chain.from_iterable(drawn)))
    task = itertools.cycle(range(n_tasks))

    def randperm(size: int) -> Tensor:
        order, own = next(theirs), next(task)
        if size == n_tasks:  # PCGrad's: all tasks, of which the own one is left out
            return torch.tensor([*order, own], dtype=torch.int64)
        others = [other for other in range(n_tasks) if other != own]
        return torch.tensor([others.index(other) for other in order], dtype=torch.int64)

    def orders(size: int) -> object:
        assert size == n_tasks
        order = torch.tensor(next(ours), dtype=torch.float64).reshape(n_tasks, n_tasks - 1)
        return to_array(order).astype(int) if hasattr(to_array(order), "astype") else order.long()

    monkeypatch.setattr(torch, "randperm", randperm)
    monkeypatch.setattr(_pcgrad, "random_orders", orders)
    monkeypatch.setattr(_gradvac, "random_orders", orders)


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_surgery_is_torchjds(n_tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, matrix in jacobians(n_tasks).items():
        if "zero" in name:
            continue  # there theirs divides by zero
        orders_for_both(n_tasks, monkeypatch)
        gramian = gramian_of(matrix)
        theirs = torchjd.aggregation.PCGradWeighting()(gramian)
        torch.testing.assert_close(
            PCGradWeighting()(gramian), theirs, rtol=1e-9, atol=1e-9, msg=name
        )


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_vaccine_is_torchjds(n_tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    orders_for_both(n_tasks, monkeypatch, calls=4)
    ours, theirs = GradVacWeighting(beta=0.3), torchjd.aggregation.GradVacWeighting(beta=0.3)
    for _ in range(4):
        gramian = gramian_of(draw(n_tasks, 30))
        gramian /= gramian.diagonal().mean()  # the size at which eps means the same to both
        torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [PCGradWeighting, GradVacWeighting])
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_any_gradients(n_tasks: int, kind: type) -> None:
    for name, matrix in jacobians(n_tasks).items():
        weigh = kind()
        for _ in range(3):
            assert weigh(gramian_of(matrix)).isfinite().all(), name


@pytest.mark.parametrize("kind", [PCGradWeighting, GradVacWeighting])
@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_the_size_of_the_gradients(kind: type, factor: float) -> None:
    gramian, results = of_spectrum(7, 1e2), []
    for scale in (1.0, factor):
        torch.manual_seed(0)
        results.append(kind()(gramian * scale))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_all_orders_are_equally_likely() -> None:
    """720 draws of 3 × 2 orders each: a chi-square test at a level that no seed will miss."""
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(720):
        for task, order in enumerate(random_orders(4).tolist()):
            assert sorted([*order, task]) == [0, 1, 2, 3]
            counts[task, *order] = counts.get((task, *order), 0) + 1
    assert len(counts) == 24
    assert sum((count - 120) ** 2 / 120 for count in counts.values()) < 50


def test_orders_come_from_the_global_generator() -> None:
    torch.manual_seed(3)
    first = random_orders(6).tolist()
    assert random_orders(6).tolist() != first
    torch.manual_seed(3)
    assert random_orders(6).tolist() == first


def test_the_mean_over_the_orders_is_torchjds() -> None:
    gramian = gramian_of(jacobians(3)["conflicting"])
    pairs = ((PCGradWeighting(), torchjd.aggregation.PCGradWeighting()),)
    for ours, theirs in pairs:
        means = [torch.stack([weigh(gramian) for _ in range(2000)]) for weigh in (ours, theirs)]
        spread = means[0].std(0) / 2000**0.5
        difference = (means[0].mean(0) - means[1].mean(0)).abs()
        assert (difference <= 6 * spread + 1e-12).all()


def test_vaccine_without_eps() -> None:
    method = GradVacWeighting(eps=0.0)
    for name in ("independent", "some zero", "identical", "all zero"):
        for _ in range(3):
            assert method(gramian_of(jacobians(5)[name])).isfinite().all(), name


def test_vaccine_has_a_memory() -> None:
    method, gramian = GradVac(), gramian_of(draw(4, 9))
    torch.manual_seed(0)
    first = method.gramian_weighting(gramian)
    torch.manual_seed(0)
    assert not torch.equal(method.gramian_weighting(gramian), first)
    method.reset()
    torch.manual_seed(0)
    assert torch.equal(method.gramian_weighting(gramian), first)
    method(draw(5, 9))  # another number of tasks: anew


def test_options() -> None:
    assert repr(PCGrad()) == "PCGrad()"
    assert repr(GradVac(beta=0.25)) == "GradVac(beta=0.25, eps=1e-08)"
    method = GradVac()
    method.beta = 1.0
    method.eps = 0.0
    assert repr(method.gramian_weighting) == "GradVacWeighting(beta=1.0, eps=0.0)"
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]; found 2"):
        method.beta = 2
    with pytest.raises(ValueError, match=r"eps must be in \[0, inf\); found -1"):
        method.eps = -1
