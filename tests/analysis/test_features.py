"""Features, embedded in the plane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn

from samo.analysis import AnalysisError, Features, features
from tests.snapshots import Expected

CENTRES = torch.eye(3).repeat_interleave(20, 0) * 8.0


class Net(nn.Module):
    """A network whose heads shift the features by different offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        self.maps = nn.Conv2d(1, 2, 1)
        self.heads = nn.ModuleDict({t: nn.Linear(3, 3) for t in "ab"})
        for i, head in enumerate(self.heads.values()):
            assert isinstance(head, nn.Linear)
            nn.init.eye_(head.weight)
            nn.init.constant_(head.bias, 100.0 * i)

    def losses(self, batch: tuple[Tensor, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.trunk(batch[0])
        self.maps(batch[0].view(-1, 1, 1, 3))
        return {t: self.heads[t](h).mean() for t in tasks}


def batches(n: int = 60, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = CENTRES[:n] + 0.1 * torch.randn(n, 3, generator=generator)
    y = torch.arange(3).repeat_interleave(20)[:n]
    order = torch.randperm(n, generator=generator)
    return [(x[i], y[i]) for i in order.split(size)]


def nearest_is_own(found: Features) -> float:
    """Returns the share of points whose nearest neighbour is in the same cluster."""
    points, labels = np.array(found.points), np.array(found.labels)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    return float((labels[apart.argmin(1)] == labels).mean())


def test_separated_clusters_are_separated() -> None:
    model = Net()
    expected = Expected(model)
    found = features(
        model,
        model.losses,
        batches(),
        ["a", "b"],
        lambda batch: batch[0],
        labels=lambda batch: batch[1],
        perplexity=10,
    )
    expected.check(model)
    assert nearest_is_own(found) == 1.0
    assert sorted(set(found.labels)) == ["0", "1", "2"]
    assert found.dimensions == 3
    rows = torch.cat([x for x, _ in batches()]).double().numpy()
    truth = torch.cat([y for _, y in batches()]).numpy()
    assert found.silhouette == pytest.approx(float(silhouette_score(rows, truth)), rel=1e-6)
    centroids = {
        c: np.mean(
            [p for p, label in zip(found.points, found.labels, strict=True) if label == c], 0
        )
        for c in "012"
    }
    apart = [
        np.linalg.norm(centroids[c] - centroids[d]) for c, d in itertools.combinations("012", 2)
    ]
    assert found.distance == pytest.approx(np.mean(apart))


def relative_distance(found: Features) -> float:
    """Returns the distance of two clusters relative to their mean radius in the embedding."""
    points, labels = np.array(found.points), np.array(found.labels)
    clusters = [points[labels == label] for label in np.unique(labels)]
    radii = [np.linalg.norm(c - c.mean(0), axis=1).mean() for c in clusters]
    return found.distance / float(np.mean(radii))


def test_identical_clusters_are_not_separated() -> None:
    """The perplexity is large enough that rounding does not change the shape of the embedding."""
    model = Net()
    call = (model, model.losses, batches(), ["a", "b"])
    same = features(
        *call, {"one": lambda batch: batch[0], "same": lambda batch: batch[0] + 1e-6}, perplexity=30
    )
    apart = features(
        *call, {"one": lambda batch: batch[0], "other": lambda batch: batch[0] + 50}, perplexity=30
    )
    assert same.silhouette < 0.05
    assert apart.silhouette > 0.9
    assert relative_distance(same) < 0.5
    assert relative_distance(apart) > 5
    assert apart.distance > same.distance


def test_outputs_of_submodules_are_embedded_and_the_model_is_unchanged(tmp_path: Path) -> None:
    model = Net()
    model.train()
    expected = Expected(model)
    of = {"a": "heads.a", "b": "heads.b"}
    found = features(model, model.losses, batches(), ["a", "b"], of, perplexity=5)
    expected.check(model)
    assert len(found.points) == 120
    assert nearest_is_own(found) == 1.0
    found.save(tmp_path / "features.json")
    assert Features.load(tmp_path / "features.json") == found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Restricts t-SNE to one thread: with several, the order of its sums is undefined."""
    with threadpool_limits(1):
        yield


@pytest.mark.usefixtures("one_thread")
def test_the_same_arguments_give_the_same_embedding() -> None:
    model = Net()
    of = {"a": "heads.a", "b": "heads.b"}
    one, two = (
        features(model, model.losses, batches(), ["a", "b"], of, perplexity=5) for _ in range(2)
    )
    assert one == two


@pytest.mark.usefixtures("one_thread")
def test_a_submodules_features_are_those_of_a_function() -> None:
    model = Net()
    call = (model, model.losses, batches(), ["a"])

    def labels(batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[1]

    def trunk(batch: tuple[Tensor, Tensor]) -> Tensor:
        assert not model.training
        return model.trunk(batch[0])

    one = features(*call, "trunk", labels, perplexity=5, samples=40)
    assert one == features(*call, trunk, labels, perplexity=5, samples=40)
    assert len(one.points) == 40
    # Feature maps are averaged over the positions: two channels remain.
    assert features(*call, "maps", labels, perplexity=5).dimensions == 2


def test_many_dimensions_are_reduced_by_pca() -> None:
    model = Net()
    lift = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(0)))[0]
    found = features(
        model,
        model.losses,
        batches(),
        ["a"],
        lambda batch: batch[0] @ lift[:3],
        lambda batch: [f"class {int(c)}" for c in batch[1]],
        perplexity=10,
    )
    assert found.dimensions == 60
    assert nearest_is_own(found) == 1.0


def test_invalid_arguments_raise_errors() -> None:
    model = Net()
    call = (model, model.losses, batches(), ["a", "b"])

    def labels(batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[1]

    cases = [
        (("trunk",), "either of= by cluster"),
        (({"a": "trunk"}, labels), "either of= by cluster"),
        (("tronk", labels), "no submodule 'tronk'"),
        (("trunk", lambda batch: [0]), "found 1 for 16 features"),
        (("trunk", lambda batch: [0] * len(batch[1])), "of 1 clusters"),
        ((lambda batch: "no", labels), "found str"),
        ((lambda batch: batch[0].mean(), labels), "found a scalar"),
        ((lambda batch: batch[0] / 0, labels), "not finite"),
        (({"a": lambda b: b[0], "b": lambda b: b[0][:, :2]},), r"one dimension; found \[2, 3\]"),
    ]
    for arguments, message in cases:
        expected = Expected(model)
        with pytest.raises(AnalysisError, match=message):
            features(*call, *arguments)  # type: ignore[arg-type]
        expected.check(model)
    with pytest.raises(AnalysisError, match=r"below the number of examples, 60; found 60"):
        features(*call, "trunk", labels, perplexity=60)
    with pytest.raises(AnalysisError, match="label for each point"):
        Features(((0.0, 0.0),), (), 1.0, 1.0, 1, 1.0, 0)
