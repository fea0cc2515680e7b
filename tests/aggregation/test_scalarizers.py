"""SI, STL, DWA, SLAW, LDC-MTL and GO4Align against their equations."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd import scalarization
from torchjd.scalarization import Scalarizer

from samo.aggregation import DWA, LDCMTL, SI, SLAW, STL, GO4Align


def weights_of(method: Scalarizer, losses: Tensor) -> Tensor:
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(method(leaf), leaf)[0]


def test_si() -> None:
    losses = torch.rand(5).double() + 0.1
    torch.testing.assert_close(weights_of(SI(), losses), 1 / losses)


@pytest.mark.parametrize("task", [0, 2])
def test_stl(task: int) -> None:
    weights = weights_of(STL(3, task), torch.rand(3))
    assert weights.tolist() == [float(i == task) for i in range(3)]


def test_dwa_agrees_with_torchjd() -> None:
    ours, theirs = DWA(temperature=0.7), scalarization.DWA(temperature=0.7)
    for _ in range(5):
        for losses in torch.rand(3, 4, dtype=torch.float64) + 0.1:
            assert torch.equal(weights_of(ours, losses), weights_of(theirs, losses))
        for _ in range(2):  # an epoch without a call is none
            ours.step()
            theirs.step()


@pytest.mark.parametrize(
    ("older", "newer", "rate"),
    [(0.0, 0.0, 1.0), (0.0, 3.0, 1.0), (3.0, 0.0, 0.0), (1e-320, 1.0, 1.0), (-2.0, 1.0, -0.5)],
)
def test_dwa_after_a_loss_of_zero(older: float, newer: float, rate: float) -> None:
    method = DWA(temperature=1.0)
    for mean in (older, newer):
        method(torch.tensor([4.0, mean], dtype=torch.float64))
        method.step()
    expected = 2 * torch.softmax(torch.tensor([1.0, rate], dtype=torch.float64), 0)
    torch.testing.assert_close(weights_of(method, torch.ones(2).double()), expected)


def test_slaw() -> None:
    """Arithmetic moments over the first 1 / (1 - β) calls, exponential ones after."""
    method, seen, beta = SLAW(beta=0.75), [], 0.75
    for step in range(12):
        losses = torch.rand(3, dtype=torch.float64) * torch.tensor([0.1, 1.0, 10.0]) + 5
        seen.append(losses)
        if step < 4:
            first, second = torch.stack(seen).mean(0), torch.stack(seen).square().mean(0)
        else:
            first = beta * first + (1 - beta) * losses
            second = beta * second + (1 - beta) * losses**2
        spread = (second - first**2).clamp(min=0).sqrt().clamp(min=1e-5)
        expected = 3 / spread / (1 / spread).sum()
        torch.testing.assert_close(weights_of(method, losses), expected, rtol=1e-6, atol=0)


def test_slaw_does_not_lose_a_small_spread() -> None:
    """A spread of 1 around 1e9: the difference of moments in float32 would be nothing."""
    method = SLAW()
    for step in range(20):
        weights = weights_of(method, torch.tensor([1e9, 0.0]).double() + (-1) ** step)
    torch.testing.assert_close(weights, torch.ones(2).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("lambda_", [0.0, 0.1])
def test_ldc_mtl(lambda_: float) -> None:
    """The derivatives of the penalised sum, by finite differences; the sum of weights is fixed."""
    method = LDCMTL(4, lambda_).double()
    with torch.no_grad():
        method.logits.copy_(torch.tensor([0.3, 1.0, -0.5, 2.0]))
    losses = torch.tensor([1.0, 3.0, 2.0, 0.5], dtype=torch.float64)
    total = method.logits.sigmoid().sum().detach()

    def value(logits: Tensor, losses: Tensor) -> Tensor:
        weighted = logits.sigmoid() * losses
        gaps = sum((weighted[i] - weighted[i + 1]).abs() for i in range(3))
        return weighted.sum() / total + lambda_ * gaps

    torch.testing.assert_close(method(losses), value(method.logits, losses))
    method(losses.requires_grad_()).backward()
    for at, found in ((method.logits.detach(), method.logits.grad), (losses, losses.grad)):
        assert found is not None
        for i in range(4):
            e = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor(i), 1e-6)
            logits, other = method.logits.detach(), losses.detach()
            if at is losses:
                slope = (value(logits, other + e) - value(logits, other - e)) / 2e-6
            else:
                slope = (value(logits + e, other) - value(logits - e, other)) / 2e-6
            torch.testing.assert_close(found[i], slope, rtol=1e-5, atol=1e-8)


def test_ldc_mtl_evens_the_weighted_losses_out() -> None:
    method, losses = LDCMTL(2, lambda_=1.0), torch.tensor([1.0, 3.0])
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        method(losses).backward()
        optimizer.step()
    weighted = method.logits.sigmoid() * losses
    # From a third to within the steps of Adam around it.
    torch.testing.assert_close(weighted[0], weighted[1], rtol=0.2, atol=0)


def indicators(all_losses: list[Tensor], step: float) -> Tensor:
    p = torch.full_like(all_losses[0], 1 / len(all_losses[0]))
    for losses in all_losses:
        p = p * torch.exp(-step * losses)
        p = p / p.sum()
    return p * all_losses[-1].sum() / all_losses[-1]


def best_groups(numbers: Tensor, groups: int) -> Tensor:
    """K-means of numbers by trying all divisions of their order."""
    ordered, order = numbers.sort()
    found: list[tuple[float, Tensor]] = []
    for cuts in combinations(range(1, len(numbers)), groups - 1):
        parts = ordered.tensor_split(list(cuts))
        cost = sum(((p - p.mean()) ** 2).sum().item() for p in parts)
        found.append((cost, torch.cat([p.mean().expand(len(p)) for p in parts])))
    means = min(found, key=lambda pair: pair[0])[1]
    return torch.empty_like(numbers).index_copy(0, order, means)


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_go4align(groups: int) -> None:
    method, seen = GO4Align(groups, robust_step_size=0.05), []
    for _ in range(4):
        seen.append(torch.rand(7, dtype=torch.float64) * 3 + 0.2)
        expected = best_groups(indicators(seen, 0.05), groups)
        torch.testing.assert_close(weights_of(method, seen[-1]), expected, rtol=1e-9, atol=0)


def test_go4align_with_fewer_tasks_than_groups() -> None:
    losses = torch.tensor([0.5, 2.0]).double()
    torch.testing.assert_close(
        weights_of(GO4Align(5), losses), indicators([losses], 1e-4), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STL(3, task=3), r"task must be an integer in 0\.\.2; found 3"),
        (lambda: STL(3)(torch.ones(2)), "STL was made for 3 tasks"),
        (lambda: SLAW(beta=1), r"beta must be in \[0, 1\); found 1"),
        (lambda: DWA(0), r"temperature must be in \(0, inf\); found 0"),
        (lambda: SLAW(eps=0), r"eps must be in \(0, inf\); found 0"),
        (lambda: LDCMTL(2, lambda_=-1), r"lambda_ must be in \[0, inf\); found -1"),
        (lambda: LDCMTL(2)(torch.ones(3)), "LDCMTL was made for 2 tasks"),
        (lambda: GO4Align(num_groups=0), r"num_groups must be in \[1, inf\); found 0"),
        (lambda: SI()(torch.tensor([1.0, 0.0])), r"SI needs positive losses; found \[1.0, 0.0\]"),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", [DWA(), SLAW(), GO4Align()])
def test_the_number_of_tasks_may_not_change(method: Scalarizer) -> None:
    method(torch.ones(3))
    with pytest.raises(ValueError, match="was made for 3 tasks; found losses of shape"):
        method(torch.ones(2))


def test_a_number_is_asked_for() -> None:
    with pytest.raises(TypeError, match=r"beta must be a number; found '0\.9'"):
        SLAW(beta="0.9")  # type: ignore[arg-type]
