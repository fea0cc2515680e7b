"""Multi-MNIST, Multi-Fashion and Multi-Fashion+MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, final

from torch import nn

from ..._names import unknown
from .._benchmark import Defaults, Split
from .._checks import check_at_least
from .._errors import DataError
from .._folders import data_folder, raise_missing
from .._overlaid import OverlaidPairs
from ..networks import LeNet, ResNet18
from ._idx import LAYOUT, read_labelled
from ._pairs import Base, held_out, paired

Source = Literal["mnist", "fashion_mnist"]

# The subdirectories that may contain a set; the second is torchvision's.
_FOLDERS: dict[Source, tuple[str, ...]] = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion_mnist": ("fashion_mnist", "FashionMNIST/raw"),
}
_VALIDATION_SHARE = 1 / 6
_NETWORKS: dict[str, type[LeNet] | type[ResNet18]] = {"resnet18": ResNet18, "lenet": LeNet}


class PairsFromFiles(OverlaidPairs):
    """Classification of two overlapping pictures in one image, top left and bottom right.

    The images are constructed as in Pareto MTL (Lin et al., 2019, arXiv 1912.12854), on which
    F-MTL (arXiv 2211.13723) reports: 36 × 36 pixels, one 28 × 28 picture in the top left corner,
    one in the bottom right corner; overlapping pixels have the maximum. Their generator was not
    published, so these are not the same images: compare differences between methods, not
    absolute accuracy. One difference is deliberate: the pictures of the training file are split
    into training and validation (5 to 1, by `seed`) *before* they are paired, and test pairs are
    made from the ``t10k`` file, so no picture is in two splits. A batch is a tuple of images
    (uint8), left labels and right labels.

    Args:
        data: The directory with ``mnist/``, ``fashion_mnist/`` or both (or torchvision's
            ``MNIST/raw/`` and ``FashionMNIST/raw/``), each with the four idx files, gzipped or not.
            If one set is enough, the directory of its files is accepted too.
        pairs: The number of training pairs.
        validation_pairs: The number of validation pairs.
        test_pairs: The number of test pairs.
        network: ``"resnet18"``, as in F-MTL, or the far cheaper ``"lenet"``, as in Pareto MTL.
        width: The channels of the network's first convolution; None for the published network.
        seed: The seed of the data. It is not the seed of a run: all runs see the same data.

    Attributes:
        sources: The sets of the pictures top left and bottom right.

    Raises:
        DataError: If a directory or a file is missing, or a file is invalid.
        ValueError: If an argument is out of its range.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=100, batch_size=256, lr=1e-3, rho=0.1, rho_grid=(0.05, 0.1, 0.2, 0.5)
    )
    sources: ClassVar[tuple[Source, Source]]

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
        check_at_least(
            1, pairs=pairs, validation_pairs=validation_pairs, test_pairs=test_pairs, width=width
        )
        check_at_least(0, seed=seed)
        if network not in _NETWORKS:
            raise ValueError(unknown("network", network, _NETWORKS))
        self.data = data
        self.pairs = pairs
        self.validation_pairs = validation_pairs
        self.test_pairs = test_pairs
        self.network = network
        self.width = width
        self.seed = seed
        bases = {source: self._base(source) for source in dict.fromkeys(self.sources)}
        left, right = (bases[source] for source in self.sources)
        sizes: dict[Split, int] = {
            "train": pairs,
            "validation": validation_pairs,
            "test": test_pairs,
        }
        super().__init__(
            {split: paired(left[split], right[split], n, seed, split) for split, n in sizes.items()}
        )

    def model(self) -> nn.Module:
        network = _NETWORKS[self.network]
        return network(self.tasks) if self.width is None else network(self.tasks, width=self.width)

    def _base(self, source: Source) -> dict[Split, Base]:
        """Reads the single pictures of a set, by split."""
        sources = dict.fromkeys(self.sources)
        layout = [f"{source}/{file}" for source in sources for file in LAYOUT]
        folder = _folder(data_folder(self.data, layout), source, alone=len(sources) == 1)
        if folder is None:
            raise_missing(Path(self.data) / source, layout)
        training = read_labelled(folder, "train")
        parts = held_out(training, _VALIDATION_SHARE, self.seed)
        if not len(parts["validation"][0]):
            raise DataError(f"{folder}: {len(training[0])} training images are too few to split.")
        return {**parts, "test": read_labelled(folder, "t10k")}


def _folder(data: Path, source: Source, *, alone: bool) -> Path | None:
    """Returns the directory with the files of a set."""
    for name in _FOLDERS[source]:
        if (data / name).is_dir():
            return data / name
    return data if alone else None


@final
class MultiMNIST(PairsFromFiles):
    """Classification of two overlapping MNIST digits in one image, top left and bottom right.

    See `PairsFromFiles` for the images and the arguments.

    Example:
        >>> MultiMNIST(data="~/no/such/folder")
        Traceback (most recent call last):
            ...
        samo.benchmarks._errors.DataError: there is no directory ... It should contain mnist/...
    """

    sources: ClassVar[tuple[Source, Source]] = ("mnist", "mnist")


@final
class MultiFashion(PairsFromFiles):
    """Classification of two overlapping Fashion-MNIST articles, top left and bottom right.

    See `PairsFromFiles` for the images and the arguments.
    """

    sources: ClassVar[tuple[Source, Source]] = ("fashion_mnist", "fashion_mnist")


@final
class MultiFashionMNIST(PairsFromFiles):
    """Classification of an MNIST digit, top left, and an overlapping Fashion-MNIST article.

    See `PairsFromFiles` for the images and the arguments.
    """

    sources: ClassVar[tuple[Source, Source]] = ("mnist", "fashion_mnist")
