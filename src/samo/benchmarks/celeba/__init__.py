"""CelebA: 40 attributes of a face."""

from ._benchmark import CelebA

__all__ = ["CelebA"]
