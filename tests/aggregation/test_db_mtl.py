"""DB-MTL, held against autograd through the logarithms of losses."""

from __future__ import annotations

import pytest
import torch

from samo.aggregation import DBMTL


@pytest.mark.parametrize(("beta", "sigma"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.5)])
def test_equations(beta: float, sigma: float) -> None:
    method, average = DBMTL(beta, sigma), torch.zeros(3, 4, dtype=torch.float64)
    centres = torch.randn(3, 4, dtype=torch.float64)
    sizes = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    for k in range(1, 6):
        x = torch.randn(4, dtype=torch.float64, requires_grad=True)

        def losses(x: torch.Tensor) -> torch.Tensor:
            return sizes * (x - centres).square().sum(1)

        jacobian = torch.autograd.functional.jacobian(losses, x)
        of_logs = torch.autograd.functional.jacobian(lambda x: losses(x).log(), x)
        b = beta / k**sigma
        average = b * average + (1 - b) * of_logs
        norms = average.norm(dim=1)
        expected = (norms.max() / norms) @ average
        total = method.see_losses(losses(x).detach())
        torch.testing.assert_close(total, losses(x).log().sum().detach())
        torch.testing.assert_close(method(jacobian), expected)


def test_invariant_to_the_size_of_losses() -> None:
    rows, losses = torch.randn(2, 5).double(), torch.tensor([1.0, 2.0]).double()
    sizes = torch.tensor([3.0, 1e6]).double()
    one, other = DBMTL(), DBMTL()
    one.see_losses(losses)
    other.see_losses(losses * sizes)
    torch.testing.assert_close(one(rows), other(rows * sizes[:, None]))


def test_a_zero_gradient_stays_zero() -> None:
    rows = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    torch.testing.assert_close(DBMTL(beta=0)(rows), rows[0])


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]; found 2"):
        DBMTL(beta=2)
    with pytest.raises(ValueError, match=r"DBMTL needs positive losses; found \[1.0, -1.0\]"):
        DBMTL().see_losses(torch.tensor([1.0, -1.0]))
