"""Procedural textures: the colour of a surface at each of its points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

Array = np.ndarray
Colour = tuple[float, float, float]
Pattern = Callable[[Array], Array]


def unpatterned(p: Array) -> Array:
    """Returns a faint grain and no other pattern."""
    return 0.15 * grain(6 * p)


def grain(p: Array) -> Array:
    """Returns smooth noise: a few waves in unrelated directions."""
    x, y, z = p
    waves = np.sin(1.9 * x + 2.7 * y + 1.3 * z) + np.sin(3.1 * y - 2.3 * z + 0.7 * x + 1.1)
    waves += np.sin(4.3 * z + 3.7 * x - 2.9 * y + 2.3) + np.sin(6.1 * x - 5.3 * z + 4.7 * y + 0.5)
    return cast(Array, 0.5 + waves / 8)


def checker(p: Array) -> Array:
    """Returns tiles of two colours."""
    return cast(Array, np.floor(p).sum(axis=0) % 2)


def stripes(p: Array) -> Array:
    """Returns stripes across x."""
    return cast(Array, (p[0] % 1 > 0.5) * 1.0)


def planks(p: Array) -> Array:
    """Returns boards along z, each in a different shade, with dark joints and grain."""
    board = np.floor(p[0])
    joint = (p[0] % 1 < 0.04) | ((p[2] * 0.25 + _hash(board)) % 1 < 0.01)
    fibre = grain(np.stack([9 * p[0], 2 * p[1], 0.8 * p[2]]))
    return np.where(joint, 1.0, 0.5 * _hash(board + 7) + 0.3 * fibre)


def bricks(p: Array) -> Array:
    """Returns rows of bricks with mortar, for upright walls."""
    row = np.floor(3 * p[1])
    along = p[0] + p[2] + 0.5 * (row % 2)
    mortar = (3 * p[1] % 1 < 0.15) | (along % 1 < 0.06)
    return np.where(mortar, 1.0, 0.4 * _hash(np.floor(along) + 31 * row))


def panes(p: Array) -> Array:
    """Returns rows and columns of window panes."""
    inside = ((p[0] + p[2]) % 1 > 0.35) & (p[1] % 1 > 0.4)
    return cast(Array, inside * (0.6 + 0.4 * _hash(np.floor(p[0] + p[2]) + 17 * np.floor(p[1]))))


def spines(p: Array) -> Array:
    """Returns spines of books: narrow upright stripes, each in a different shade."""
    return _hash(np.floor(p[0]))


def _hash(whole: Array) -> Array:
    """Returns a pseudo-random number in [0, 1) for each integer."""
    return cast(Array, (np.sin(whole * 12.9898 + 4.1414) * 43758.5453) % 1)


@dataclass(frozen=True)
class Material:
    """The appearance of a surface.

    Args:
        colour: The colour: red, green and blue in [0, 1].
        other: The second colour of the pattern; by default, a darker shade of the first.
        pattern: Mixes the colours.
        size: The size of the pattern in metres.
        phase: The offset of the pattern; steps at the edge of a face would flicker.
        gloss: The strength of the highlight.
        glow: The light that the surface emits.
    """

    colour: Colour
    other: Colour | None = None
    pattern: Pattern = unpatterned
    size: float = 1.0
    phase: float = 0.37
    gloss: float = 0.0
    glow: float = 0.0

    def colours(self, points: Array) -> Array:
        """Computes the colours at points in the solid's frame, shape ``[3, n]``."""
        first = np.array(self.colour)[:, None]
        second = 0.55 * first if self.other is None else np.array(self.other)[:, None]
        mix = self.pattern(points / self.size + self.phase)
        return cast(Array, first + (second - first) * mix)
