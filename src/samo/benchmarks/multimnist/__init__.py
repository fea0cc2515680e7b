"""Two overlapping pictures in one image, from files of MNIST and Fashion-MNIST."""

from ._benchmark import MultiFashion, MultiFashionMNIST, MultiMNIST, PairsFromFiles

__all__ = ["MultiFashion", "MultiFashionMNIST", "MultiMNIST", "PairsFromFiles"]
