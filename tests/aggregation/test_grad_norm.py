"""GradNorm, held against its loss differentiated by autograd and stepped by torch's Adam."""

from __future__ import annotations

import pytest
import torch

from samo.aggregation import GradNorm
from tests.aggregation.subject import gradients


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_against_autograd_and_adam(alpha: float) -> None:
    method, k = GradNorm(alpha, lr=0.05), 4
    weights = torch.ones(k, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    initial = None
    for step in range(12):
        rows = gradients("random", k) * torch.logspace(-1, 1, k)[:, None] * (1 + 0.1 * step)
        losses = (
            torch.linspace(1.0, 2.0, k, dtype=torch.float64) * torch.linspace(0.9, 0.5, k) ** step
        )
        initial = losses if initial is None else initial
        own = method.see_losses(losses)
        torch.testing.assert_close(own, (weights.detach() * losses).sum())
        torch.testing.assert_close(method(rows), weights.detach() @ rows)
        scaled = weights * rows.norm(dim=1)
        rates = losses / initial
        target = scaled.mean().detach() * (rates / rates.mean()) ** alpha
        optimizer.zero_grad()
        # Adam divides the size away, but for its eps.
        ((scaled - target).abs().sum() / rows.norm(dim=1).mean()).backward()
        optimizer.step()
        with torch.no_grad():
            weights *= k / weights.sum()
    assert weights.std() > 0.1


def test_balances_the_norms() -> None:
    """With equal rates of training, the weighted norms become equal."""
    method, rows = GradNorm(lr=0.02), gradients("random", 3) * torch.tensor([[0.3], [1.0], [3.0]])
    rows /= rows.norm(dim=1, keepdim=True) / torch.tensor([[0.3], [1.0], [3.0]])
    for _ in range(400):
        weights = method.gramian_weighting(rows @ rows.T)
    norms = weights * rows.norm(dim=1)
    torch.testing.assert_close(norms, norms.mean().expand(3), rtol=0.1, atol=0)
    torch.testing.assert_close(weights.sum(), torch.tensor(3.0).double())


def test_a_slow_task_gains_weight() -> None:
    method, rows = GradNorm(), torch.eye(2, dtype=torch.float64)
    for losses in ([1.0, 1.0], [0.2, 0.9], [0.1, 0.9]):
        method.see_losses(torch.tensor(losses))
        method(rows)
    slow = method.gramian_weighting(rows)
    assert slow[1] > slow[0]


def test_weights_stay_positive() -> None:
    method = GradNorm(lr=5.0)
    rows = torch.eye(2, dtype=torch.float64) * torch.tensor([[1.0], [1e6]])
    for _ in range(20):
        weights = method.gramian_weighting(rows @ rows.T)
        assert (weights > 0).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \[0, inf\); found -1"):
        GradNorm(alpha=-1)
    method = GradNorm()
    method(torch.eye(2))
    with pytest.raises(ValueError, match=r"made for 2 tasks; found losses of shape \(3,\)"):
        method(torch.eye(3))
    with pytest.raises(ValueError, match=r"GradNormWeighting needs positive losses; found \[0"):
        method.see_losses(torch.tensor([0.0, 1.0]))
