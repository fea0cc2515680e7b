"""Multi-MNIST, Multi-Fashion and Multi-Fashion+MNIST."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._batches import TensorBatches
from .._benchmark import Benchmark, Defaults, Split
from .._classification import accuracy
from .._errors import DataError
from .._folders import data_folder, not_there
from ..._names import unknown
from ..networks import LeNet, ResNet18
from ._idx import CLASSES, LAYOUT, read_labelled
from ._pairs import Base, divided, paired

Source = Literal["mnist", "fashion_mnist"]

# Where a set is looked for below the user's directory; the second is torchvision's place.
_FOLDERS: dict[Source, tuple[str, ...]] = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "FashionMNIST/raw"),
}
_VALIDATION_SHARE = 1 / 6
_NETWORKS: dict[str, type[LeNet] | type[ResNet18]] = {"resnet18": ResNet18, "lenet": LeNet}


class OverlaidPairs(Benchmark):
    """Two overlapping pictures in one image: which is top left, and which is bottom right?

    The images are made as those of Pareto MTL (Lin et al., 2019, arXiv 1912.12854), on which F-MTL
    (arXiv 2211.13723) reports: 36 × 36 pixels, one 28 × 28 picture in the top left corner, one in
    the bottom right one; where both have ink, the stronger counts. Their generator was not
    published, so these are not the same images: compare differences between methods, not absolute
    accuracy. What differs on purpose: the pictures of the training file are divided into training
    and validation (5 to 1, by `seed`) *before* they are paired, and test pairs are made from the
    ``t10k`` file, so no picture of one split is in another.

    Args:
        data: The directory with ``mnist/``, ``fashion_mnist/`` or both (or torchvision's
            ``MNIST/raw/`` and ``FashionMNIST/raw/``), in each the four idx files, gzipped or not.
            Where one set is enough, it may be the directory of these files itself.
        pairs: The number of training pairs.
        validation_pairs: The number of validation pairs.
        test_pairs: The number of test pairs.
        network: ``"resnet18"``, as in F-MTL, or ``"lenet"``, as in Pareto MTL, far cheaper.
        width: The channels of the network's first convolution; None for the published network.
        seed: The seed of the data. It is not the seed of a run: all runs see the same data.

    Raises:
        DataError: If a directory or a file is missing, or a file is not what it should be.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=100, batch_size=256, lr=1e-3, rho=0.1, rho_grid=(0.05, 0.1, 0.2, 0.5)
    )
    tasks = ("left", "right")

    def __init__(
        self,
        *,
        data: str | Path,
        pairs: int = 120_000,
        validation_pairs: int = 10_000,
        test_pairs: int = 20_000,
        network: str = "resnet18",
        width: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("pairs", pairs, 1),
            ("validation_pairs", validation_pairs, 1),
            ("test_pairs", test_pairs, 1),
            ("width", width, 1),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; found {value}.")
        if network not in _NETWORKS:
            raise ValueError(unknown("network", network, _NETWORKS))
        self.data = data
        self.pairs = pairs
        self.validation_pairs = validation_pairs
        self.test_pairs = test_pairs
        self.network = network
        self.width = width
        self.seed = seed
        self.metrics = {task: {"accuracy": accuracy(CLASSES)} for task in self.tasks}
        bases = {source: self._base(source) for source in dict.fromkeys(self.sources)}
        sizes: dict[Split, int] = {
            "train": pairs,
            "validation": validation_pairs,
            "test": test_pairs,
        }
        left, right = (bases[source] for source in self.sources)
        self._data = {
            split: paired(left[split], right[split], n, seed, split) for split, n in sizes.items()
        }

    @property
    @abstractmethod
    def sources(self) -> tuple[Source, Source]:
        """What is top left, and what is bottom right."""

    def model(self) -> nn.Module:
        """Makes the network, with a head for each corner.

        Returns:
            The network.
        """
        network = _NETWORKS[self.network]
        return network(self.tasks) if self.width is None else network(self.tasks, width=self.width)

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> TensorBatches:
        """Gives triples of images (uint8), left labels and right labels.

        Args:
            split: Which part of the data.
            tasks: Plays no part: both tasks have the same images.
            batch_size: The number of pairs.
            generator: Shuffles; None keeps the order.

        Returns:
            The batches.
        """
        return TensorBatches(self._data[split], batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the network on pixels that are scaled to [0, 1].

        Args:
            model: The model.
            batch: Images and labels.
            tasks: ``"left"``, ``"right"`` or both.

        Returns:
            Logits and labels by task.
        """
        x, *labels = batch
        targets = dict(zip(self.tasks, labels, strict=True))
        return {task: (logits, targets[task]) for task, logits in model(x / 255, tasks).items()}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the mean cross-entropy.

        Args:
            task: The task.
            prediction: Logits.
            target: Labels.

        Returns:
            The loss.
        """
        return F.cross_entropy(prediction, target)

    def _base(self, source: Source) -> dict[Split, Base]:
        """The single pictures of a set, divided."""
        layout = self._layout()
        folder = _folder(data_folder(self.data, layout), source, alone=len(set(self.sources)) == 1)
        if folder is None:
            not_there(Path(self.data) / source, layout)
        training = read_labelled(folder, "train")
        parts = divided(training, _VALIDATION_SHARE, self.seed)
        if not len(parts["validation"][0]):
            raise DataError(f"{folder}: {len(training[0])} training images are too few to divide.")
        return {**parts, "test": read_labelled(folder, "t10k")}

    def _layout(self) -> list[str]:
        """What the directory should hold, for errors."""
        return [f"{source}/{file}" for source in dict.fromkeys(self.sources) for file in LAYOUT]


def _folder(data: Path, source: Source, *, alone: bool) -> Path | None:
    """Where the files of a set lie."""
    for name in _FOLDERS[source]:
        if (data / name).is_dir():
            return data / name
    return data if alone else None


@final
class MultiMNIST(OverlaidPairs):
    """Two overlapping MNIST digits in one image: which is top left, which bottom right?

    See `OverlaidPairs` for how the images are made, and for the arguments.

    Example:
        >>> MultiMNIST(data="~/no/such/folder")
        Traceback (most recent call last):
            ...
        samo.benchmarks._errors.DataError: there is no directory ... It should hold mnist/...
    """

    sources = ("mnist", "mnist")


@final
class MultiFashion(OverlaidPairs):
    """Two overlapping articles of Fashion-MNIST in one image: which is where?

    See `OverlaidPairs` for how the images are made, and for the arguments.
    """

    sources = ("fashion_mnist", "fashion_mnist")


@final
class MultiFashionMNIST(OverlaidPairs):
    """A digit (MNIST) top left and an article (Fashion-MNIST) bottom right, overlapping.

    See `OverlaidPairs` for how the images are made, and for the arguments.
    """

    sources = ("mnist", "fashion_mnist")
