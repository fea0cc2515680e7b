"""Losses and metrics of dense prediction, against numpy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score, log_loss
from torch import Tensor

from samo.benchmarks.dense._dense import dense_metrics
from samo.benchmarks.dense._losses import depth_loss, normals_loss, segmentation_loss
from samo.benchmarks.dense._metrics import AnglesWithin, DepthError, MeanAngle, MedianAngle

CLASSES = 5


def data(seed: int, n: int = 6) -> dict[str, tuple[Tensor, Tensor]]:
    """Random predictions and targets with gaps. The last class neither occurs nor is predicted."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 3, 8, 12)

    def normals(gaps: bool) -> Tensor:
        v = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=1)
        return v * (torch.rand(n, 1, 8, 12, generator=generator) > 0.3) if gaps else v

    logits = torch.randn(n, CLASSES, 8, 12, generator=generator)
    logits[:, -1] = -20
    depth = 5 * torch.rand(n, 1, 8, 12, generator=generator)
    depth[torch.rand(depth.shape, generator=generator) < 0.3] = 0
    return {
        "segmentation": (
            logits,
            torch.randint(-1, CLASSES - 1, (n, 8, 12), generator=generator),
        ),
        "depth": (depth + torch.randn(depth.shape, generator=generator), depth),
        "normals": (normals(False), normals(True)),
    }


def naive_angles(predicted: Tensor, truth: Tensor) -> np.ndarray:
    """In double precision, pixel by pixel."""
    found = []
    p, t = (np.moveaxis(x.double().numpy(), 1, -1).reshape(-1, 3) for x in (predicted, truth))
    for a, b in zip(p, t, strict=True):
        if b.any():
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            found.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_losses(seed: int) -> None:
    found = data(seed)
    logits, labels = found["segmentation"]
    valid = labels >= 0
    probabilities = logits.double().softmax(1).movedim(1, -1)[valid]
    expected = log_loss(labels[valid], probabilities, labels=range(CLASSES))
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)

    predicted, depth = (x.numpy().ravel() for x in found["depth"])
    errors = [abs(p - d) for p, d in zip(predicted, depth, strict=True) if d != 0]
    assert depth_loss(*found["depth"]).item() == pytest.approx(np.mean(errors), rel=1e-5)

    p, t = (np.moveaxis(x.numpy(), 1, -1).reshape(-1, 3) for x in found["normals"])
    dots = [a @ b for a, b in zip(p, t, strict=True) if b.any()]
    assert normals_loss(*found["normals"]).item() == pytest.approx(1 - np.mean(dots), rel=1e-5)


def test_pixels_without_target_have_no_gradient() -> None:
    for task, loss in (
        ("segmentation", segmentation_loss),
        ("depth", depth_loss),
        ("normals", normals_loss),
    ):
        predicted, target = data(0)[task]
        predicted.requires_grad_()
        loss(predicted, target).backward()
        assert predicted.grad is not None
        gap = target < 0 if task == "segmentation" else (target == 0).all(dim=1)
        moved = predicted.grad.ne(0).any(dim=1)
        assert not moved[gap].any()
        assert moved[~gap].float().mean() > 0.99


def test_a_normal_whose_components_add_up_to_zero_counts() -> None:
    truth = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1) / 2**0.5
    assert normals_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)
    metric = MeanAngle()
    metric.update(-truth, truth)
    assert metric.compute().item() == pytest.approx(180, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [[6], [1, 4, 1]])
def test_metrics_are_over_all_pixels_of_all_batches(seed: int, sizes: list[int]) -> None:
    found = data(seed)
    metrics = dense_metrics(CLASSES, "m")
    scores: dict[str, float] = {}
    for task, (predicted, target) in found.items():
        for name, about in metrics[task].items():
            metric = about.make()
            for batch in zip(predicted.split(sizes), target.split(sizes), strict=True):
                metric.update(*batch)
            scores[name] = about.scale * float(metric.compute())

    logits, labels = found["segmentation"]
    valid = labels >= 0
    y, p = labels[valid].numpy(), logits.argmax(1)[valid].numpy()
    guessed, depth = (x.double()[found["depth"][1] != 0].numpy() for x in found["depth"])
    angles = naive_angles(*found["normals"])
    expected = {
        # The class that neither occurs nor is predicted does not count.
        "mIoU": 100 * jaccard_score(y, p, average="macro"),
        "pixel accuracy": 100 * accuracy_score(y, p),
        "absolute error": np.abs(guessed - depth).mean(),
        "relative error": (np.abs(guessed - depth) / depth).mean(),
        "mean angle": angles.mean(),
        "within 11.25": 100 * (angles < 11.25).mean(),
        "within 22.5": 100 * (angles < 22.5).mean(),
        "within 30": 100 * (angles < 30).mean(),
    }
    assert scores.pop("median angle") == pytest.approx(np.median(angles), abs=6e-4)
    assert scores == pytest.approx(expected, rel=1e-5)
    directions = {name: a.higher_is_better for task in metrics.values() for name, a in task.items()}
    assert [name for name, up in directions.items() if up] == [
        "mIoU", "pixel accuracy", "within 11.25", "within 22.5", "within 30",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1001])
def test_the_median_is_that_of_numpy_to_half_a_bin(n: int) -> None:
    truth = torch.zeros(1, 3, 1, n)
    truth[:, 2] = 1
    degrees = torch.linspace(0, 180, n, dtype=torch.float64) ** 2 / 180
    radians = torch.deg2rad(degrees)
    predicted = torch.stack([radians.sin(), 0 * radians, radians.cos()]).float()[None, :, None]
    metric = MedianAngle()
    metric.update(predicted, truth)
    assert metric.compute().item() == pytest.approx(np.median(degrees), abs=6e-4)


def test_small_angles_are_exact_in_float32() -> None:
    """The arc cosine of a float32 dot product would give 0.0198° or 0 for 0.01°."""
    angle = np.radians(0.01)
    truth = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    predicted = torch.tensor([np.sin(angle), 0.0, np.cos(angle)]).float().view(1, 3, 1, 1)
    metric = MeanAngle()
    metric.update(predicted, truth)
    assert metric.compute().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    "make", [DepthError, lambda: DepthError(relative=True), MeanAngle, MedianAngle]
)
def test_a_metric_without_measurements_is_nan(make: Any) -> None:
    metric = make()
    channels = 1 if isinstance(metric, DepthError) else 3
    metric.update(torch.ones(1, channels, 2, 2), torch.zeros(1, channels, 2, 2))
    assert metric.compute().isnan()


@pytest.mark.parametrize("make", [DepthError, MeanAngle, MedianAngle, lambda: AnglesWithin(30.0)])
def test_metrics_of_two_processes_are_combined(make: Any) -> None:
    """What torchmetrics does across processes: states are summed."""
    found = data(0)["depth" if make is DepthError else "normals"]
    whole, parts = make(), [make(), make()]
    whole.update(*found)
    for part, *batch in zip(parts, *(x.split(3) for x in found), strict=True):
        part.update(*batch)
    parts[0].merge_state(parts[1])
    assert parts[0].compute().item() == pytest.approx(whole.compute().item(), rel=1e-9)
    whole.reset()
    whole.update(*(x[:3] for x in found))
    assert whole.compute().item() == pytest.approx(
        (lambda m: (m.update(*(x[:3] for x in found)), m.compute().item())[1])(make()), rel=1e-12
    )
