"""Embeds features by t-SNE and measures the distance of their clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._data import Losses
from ._errors import AnalysisError
from ._results import Result
from ._undisturbed import undisturbed

Source = str | Callable[[Any], Tensor]
"""The source of features: a submodule's name, or a function of a batch."""

_DIMENSIONS = 50  # for t-SNE; with more, distances are slow and no better


@dataclass(frozen=True)
class Features(Result):
    """Features, embedded in the plane by t-SNE.

    Attributes:
        points: The position of each example.
        labels: The cluster of each example.
        distance: The mean distance between the centroids of two clusters among ``points``.
        silhouette: The mean silhouette coefficient of the features themselves, −1 to 1.
        dimensions: The number of dimensions of the features.
        perplexity: The perplexity.
        seed: The seed.
    """

    kind: ClassVar[str] = "features"

    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    distance: float
    silhouette: float
    dimensions: int
    perplexity: float
    seed: int

    def __post_init__(self) -> None:
        """Checks that there is one label for each point."""
        if len(self.labels) != len(self.points):
            raise AnalysisError(
                f"there must be a label for each point; found {len(self.labels)} labels and "
                f"{len(self.points)} points."
            )


def features(
    model: nn.Module,
    losses: Losses,
    batches: Iterable[Any],
    tasks: Sequence[str],
    of: Source | Mapping[str, Source],
    labels: Callable[[Any], Sequence[Any] | Tensor] | None = None,
    *,
    samples: int = 1000,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Features:
    r"""Embeds features in the plane by t-SNE, and measures the distance of their clusters.

    Figure 6 of the SAMO paper compares "the inter-cluster distance" of features of the tasks' heads
    and does not define it. Here it is the mean distance between the centroids of two clusters in
    the embedding,

    .. math:: \frac{2}{C (C - 1)} \sum_{c < d} \|μ_c - μ_d\|, \qquad
              μ_c = \text{mean of cluster } c\text{'s points.}

    t-SNE preserves neighbourhoods, not distances: the distance of clusters depends on perplexity,
    seed and the number of examples. The mean silhouette coefficient of the features themselves is
    therefore reported as well.

    Features of more than 50 dimensions are first reduced to 50 by PCA (van der Maaten and Hinton
    (2008) reduce them to 30). The model is in evaluation mode, and unchanged afterwards.

    Args:
        model: The model.
        losses: Maps a batch and task names to the losses; called to run the model.
        batches: The batches.
        tasks: The names of the tasks.
        of: The source of the features, ``[n, ..]``: the name of a submodule whose outputs to use,
            or a function of a batch; or a mapping from clusters to such sources, for instance
            ``{"seg": "heads.seg.0", "depth": "heads.depth.0"}``. Feature maps
            ``[n, channels, height, width]`` are averaged over the positions, other features are
            flattened.
        labels: A function of a batch that returns each example's cluster, such as its class. Give
            it if `of` is not a mapping by cluster.
        samples: The maximum number of examples; if there are more, they are drawn at random.
        perplexity: The perplexity, roughly the number of neighbours.
        seed: The seed of the random draw and of t-SNE.

    Returns:
        The points and the distances of the clusters.

    Raises:
        AnalysisError: If the submodule does not exist, features and labels do not match, there are
            fewer than two clusters, or no more examples than the perplexity.
    """
    if isinstance(of, Mapping) == (labels is not None):
        raise AnalysisError("give either of= by cluster, or one source of features with labels=.")
    sources: dict[str, Source] = dict(of) if isinstance(of, Mapping) else {"": of}
    found: list[NDArray[np.float64]] = []
    clusters: list[str] = []
    with undisturbed(model) as isolated, torch.no_grad():
        for batch in batches:
            outputs = isolated(partial(_outputs, model, losses, batch, tasks, sources))
            for name, rows in outputs.items():
                found.append(rows)
                clusters += [name] * len(rows) if labels is None else _labels(labels(batch), rows)
    return _embedded(found, clusters, samples, perplexity, seed)


def _outputs(
    model: nn.Module,
    losses: Losses,
    batch: Any,
    tasks: Sequence[str],
    sources: Mapping[str, Source],
) -> dict[str, NDArray[np.float64]]:
    """Returns the features of a batch, ``[n, m]`` by cluster, from one run of the model."""
    modules = {key: source for key, source in sources.items() if isinstance(source, str)}
    seen: dict[str, list[Tensor]] = {}
    if modules:
        with _recording(model, modules) as seen:
            losses(batch, list(tasks))
    for key, source in sources.items():
        if not isinstance(source, str):
            seen[key] = [_tensor(source(batch), f"features {key!r}")]
    return {key: np.concatenate([_rows(t) for t in seen[key]]) for key in sources if seen[key]}


@contextmanager
def _recording(model: nn.Module, modules: Mapping[str, str]) -> Iterator[dict[str, list[Tensor]]]:
    """Records the outputs of submodules in the context."""
    seen: dict[str, list[Tensor]] = {key: [] for key in modules}
    handles = []
    try:
        for key, name in modules.items():
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise AnalysisError(f"the model has no submodule {name!r}: {error}.") from error

            def take(_module: nn.Module, _inputs: Any, output: Any, key: str = key) -> None:
                seen[key].append(_tensor(output, f"the output of {modules[key]!r}"))

            handles.append(module.register_forward_hook(take))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() == 0:
        kind = "a scalar" if isinstance(value, Tensor) else type(value).__name__
        raise AnalysisError(
            f"{name} must be a tensor of shape [n, ..]; found {kind}. Give a function of a batch."
        )
    return value.detach()


def _rows(tensor: Tensor) -> NDArray[np.float64]:
    if tensor.dim() == 4:
        tensor = tensor.mean((2, 3))
    found: NDArray[np.float64] = tensor.reshape(len(tensor), -1).cpu().double().numpy()
    return found


def _labels(labels: Sequence[Any] | Tensor, rows: NDArray[np.float64]) -> list[str]:
    values = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(values) != len(rows):
        raise AnalysisError(
            f"labels must be one for each example; found {len(values)} for {len(rows)} features."
        )
    return [str(value) for value in values]


def _embedded(
    found: Sequence[NDArray[np.float64]],
    clusters: Sequence[str],
    samples: int,
    perplexity: float,
    seed: int,
) -> Features:
    # Imported here, because scikit-learn takes a while to load.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    if len({rows.shape[1] for rows in found}) > 1:
        sizes = sorted({rows.shape[1] for rows in found})
        raise AnalysisError(f"all features must be of one dimension; found {sizes}.")
    chosen = np.random.default_rng(seed).permutation(len(clusters))[:samples]
    labels = np.array(clusters, dtype=object)[chosen].astype(str)
    names = np.unique(labels)
    if len(names) < 2 or len(names) >= len(labels):
        raise AnalysisError(
            f"there must be two clusters or more, and more examples than clusters; found "
            f"{len(labels)} examples of {len(names)} clusters."
        )
    if not 0 < perplexity < len(labels):
        raise AnalysisError(
            f"perplexity must be above 0 and below the number of examples, {len(labels)}; "
            f"found {perplexity}."
        )
    rows = np.concatenate(found)[chosen]
    if not np.isfinite(rows).all():
        raise AnalysisError("the features are not finite (NaN or infinity).")
    reduced = rows
    if min(rows.shape) > _DIMENSIONS:
        reduced = PCA(_DIMENSIONS, random_state=seed).fit_transform(rows)
    embed = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    points = np.asarray(embed.fit_transform(reduced), dtype=np.float64)
    return Features(
        tuple((float(a), float(b)) for a, b in points),
        tuple(labels.tolist()),
        _distance(points, labels, names),
        float(silhouette_score(rows, labels)),
        rows.shape[1],
        perplexity,
        seed,
    )


def _distance(points: NDArray[np.float64], labels: NDArray[Any], names: NDArray[Any]) -> float:
    centroids = np.stack([points[labels == name].mean(0) for name in names])
    i, j = np.triu_indices(len(names), 1)
    return float(np.linalg.norm(centroids[i] - centroids[j], axis=1).mean())
