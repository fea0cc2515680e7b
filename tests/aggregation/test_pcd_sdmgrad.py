"""PCD and SDMGrad: TorchJD's, faster; and PCD's promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchjd.aggregation

from samo.aggregation import PCD, PCDWeighting, SDMGradWeighting
from tests.gramians import draw, gramian_of, jacobians, of_spectrum

N_TASKS = [1, 2, 3, 11, 40]


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("tau", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_pcd_is_torchjds(n_tasks: int, tau: float) -> None:
    ours, theirs = PCDWeighting(tau, beta=0.9), torchjd.aggregation.PCDWeighting(tau, beta=0.9)
    for _ in range(3):
        gramian = gramian_of(draw(n_tasks, 2 * n_tasks + 3))
        torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_tasks", [2, 3, 11, 40])
def test_pcd_keeps_its_promises(n_tasks: int) -> None:
    tau = 0.1
    for condition in (1e1, 1e4, 1e8):
        gramian = of_spectrum(n_tasks, condition)
        weights = PCDWeighting(tau, eps=0.0)(gramian)
        # Normalised by the norms themselves at the first call.
        unit = gramian / (gramian.diagonal().sqrt() * gramian.diagonal().sqrt()[:, None])
        found = weights * gramian.diagonal().sqrt()
        assert (found @ gramian.diagonal().sqrt().diag().inverse() @ gramian @ weights).isfinite()
        progress = unit @ found / found[0]
        assert found[0] > 0
        assert (progress[1:] >= tau - 1e-7).all()
        assert (weights @ gramian @ weights).item() == pytest.approx(gramian[0, 0].item())


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0.0, 0.0], [1.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], [1.0, 1.0]),  # promises that exclude each other
        ([[1.0, 0.0], [-1.0, 0.0]], [-1.0, 0.0]),
        ([[1.0, 2.0], [0.0, 0.0]], [1.0, 2.0]),
        ([[3.0, 4.0]], [3.0, 4.0]),
    ],
)
def test_special_cases_are_torchjds(matrix: list[list[float]], expected: list[float]) -> None:
    jacobian = torch.tensor(matrix)
    torch.testing.assert_close(torchjd.aggregation.PCD()(jacobian), torch.tensor(expected))
    torch.testing.assert_close(PCD()(jacobian), torch.tensor(expected))


@pytest.mark.usefixtures("both_libraries")
@pytest.mark.parametrize("preferred", [False, True])
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_sdmgrad_is_torchjds(n_tasks: int, preferred: bool) -> None:
    vector = torch.rand(n_tasks, dtype=torch.float64) if preferred else None
    options: dict[str, Any] = {"lr": 1.0, "n_iter": 7, "pref_vector": vector}
    ours, theirs = SDMGradWeighting(**options), torchjd.aggregation.SDMGradWeighting(**options)
    for _ in range(3):
        gramian = gramian_of(draw(n_tasks, 30))
        torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-6, atol=1e-9)
    ours.reset()
    theirs.reset()
    torch.testing.assert_close(ours(gramian), theirs(gramian), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [PCDWeighting, SDMGradWeighting])
@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_any_gradients(n_tasks: int, kind: type) -> None:
    for name, matrix in jacobians(n_tasks).items():
        weigh = kind()
        for scale in (1.0, 1e-15, 1e15):
            assert weigh(gramian_of(matrix * scale)).isfinite().all(), (name, scale)


def test_options() -> None:
    assert repr(PCD()) == "PCD(tau=0.02, beta=0.999, eps=1e-08)"
    assert repr(SDMGradWeighting()) == (
        "SDMGradWeighting(lr=10.0, momentum=0.5, n_iter=20, lambda_=0.3, pref_vector=None)"
    )
    for option, value in (("tau", 2.0), ("beta", 1.0), ("eps", -1.0)):
        with pytest.raises(ValueError, match=f"{option} must be in"):
            PCD(**{option: value})
    with pytest.raises(ValueError, match="tau must be a vector"):
        PCD(tau=torch.tensor([2.0]))
    with pytest.raises(ValueError, match="tau must have 2 values for 3 tasks; found 1"):
        PCD(tau=torch.tensor([0.5]))(torch.eye(3))
    kind: Any = SDMGradWeighting
    for option, value in (("lr", 0), ("momentum", 1), ("n_iter", 0), ("lambda_", -1)):
        with pytest.raises(ValueError, match=f"{option} must be in"):
            kind(**{option: value})
    with pytest.raises(ValueError, match="pref_vector must be a vector"):
        SDMGradWeighting(pref_vector=torch.eye(2))
    with pytest.raises(ValueError, match="pref_vector must have 3 values for 3 tasks; found 2"):
        SDMGradWeighting(pref_vector=torch.ones(2))(torch.eye(3))
