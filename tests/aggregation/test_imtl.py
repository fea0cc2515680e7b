"""Full IMTL: equal projections onto the scaled gradients; the scales are learnt from the losses."""

from __future__ import annotations

import pytest
import torch
import torchjd.aggregation

from samo.aggregation import IMTL
from tests.aggregation.subject import gradients


def test_equal_projections_onto_scaled_gradients() -> None:
    method, rows = IMTL(3), gradients("random", 3)
    with torch.no_grad():
        method.log_scale.copy_(torch.tensor([0.5, -1.0, 2.0]))
    direction = method(rows)
    scales = torch.tensor([0.5, -1.0, 2.0]).exp()
    scaled = rows * scales[:, None]
    projections = scaled @ direction / scaled.norm(dim=1)
    torch.testing.assert_close(projections, projections[:1].expand(3), rtol=1e-6, atol=1e-9)
    alpha = method.gramian_weighting(rows @ rows.T) / scales
    torch.testing.assert_close(alpha.sum(), torch.tensor(1.0).double(), rtol=1e-6, atol=0)


def test_untrained_it_is_imtl_g() -> None:
    rows = gradients("random", 3)
    torch.testing.assert_close(IMTL(3)(rows), torchjd.aggregation.IMTLG()(rows))


def test_scales_minimise_at_the_inverse_losses() -> None:
    """e^s l - s has its minimum where e^s = 1 / l."""
    method, losses = IMTL(2), torch.tensor([0.5, 4.0])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.2)
    for _ in range(200):
        optimizer.zero_grad()
        method.see_losses(losses).backward()
        optimizer.step()
    torch.testing.assert_close(method.log_scale.exp(), 1 / losses, rtol=1e-4, atol=0)
    method.reset()
    assert not method.log_scale.any()


def test_errors() -> None:
    with pytest.raises(ValueError, match="made for 3 tasks"):
        IMTL(3).see_losses(torch.ones(2))
