"""Random furnished rooms, with the thirteen classes of NYUv2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi

import numpy as np

from ._furniture import bed, chair, furniture, picture, sofa, table, things, tv, window
from ._materials import (
    Colour,
    Material,
    Pattern,
    bricks,
    checker,
    grain,
    planks,
    stripes,
    unpatterned,
)
from ._pieces import Builder, Piece
from ._render import Camera, Scene
from ._solids import InfinitePlane, Vector

_WALLS: tuple[Colour, ...] = (
    (0.86, 0.83, 0.76),
    (0.75, 0.8, 0.82),
    (0.85, 0.78, 0.72),
    (0.72, 0.78, 0.7),
)
_FLOORS: tuple[Colour, ...] = (
    (0.55, 0.38, 0.24),
    (0.42, 0.28, 0.18),
    (0.6, 0.55, 0.48),
    (0.45, 0.42, 0.42),
)


def room(random: np.random.Generator, classes: Sequence[str]) -> Scene:
    """Builds a room: walls, windows, pictures and furniture.

    Args:
        random: The source of all random choices.
        classes: The names of the thirteen classes, in the order of their labels.

    Returns:
        The scene.
    """
    b = Builder(random, classes)
    width, length, height = b.between(3.4, 5.6), b.between(4.2, 7.0), b.between(2.4, 3.0)
    camera = Camera(
        position=(width * b.between(0.3, 0.7), b.between(1.3, 1.8), b.between(0.2, 0.5)),
        yaw=b.between(-0.45, 0.45),
        pitch=b.between(-0.35, -0.05),
        roll=b.between(-0.04, 0.04),
        focal=b.between(0.75, 0.95),
    )
    _shell(b, width, length, height)
    b.taken.append((camera.position[0], camera.position[2], 0.9))
    for kind in (bed, sofa, furniture, furniture):
        if b.chance(0.65):
            _against_a_wall(b, kind, width, length)
    for kind in (table, chair, chair, things):
        if b.chance(0.75):
            _in_the_middle(b, kind, width, length)
    _on_the_walls(b, width, length)
    return Scene(
        tuple(b.surfaces),
        camera,
        light=(width * b.between(0.25, 0.75), height - 0.25, length * b.between(0.2, 0.6)),
        brightness=b.between(0.5, 0.85),
        ambient=b.between(0.3, 0.5),
        noise=b.between(0.01, 0.03),
    )


def _shell(b: Builder, width: float, length: float, height: float) -> None:
    """Adds floor, ceiling and four walls."""
    floors: tuple[Pattern, ...] = (planks, planks, checker, grain, unpatterned)
    boards = floors[int(b.random.integers(len(floors)))]
    floor = Material(
        b.shade(_FLOORS), pattern=boards, size=b.between(0.15, 0.4), phase=b.between(0.2, 0.8)
    )
    b.add("floor", InfinitePlane((0, 0, 0), (0, 1, 0)), floor)
    ceiling = Material(b.shade([(0.92, 0.92, 0.9)], 0.04))
    b.add("ceiling", InfinitePlane((0, height, 0), (0, -1, 0)), ceiling)
    papers: tuple[Pattern, ...] = (unpatterned, unpatterned, unpatterned, stripes, bricks)
    paper = papers[int(b.random.integers(len(papers)))]
    red, green, blue = b.shade(_WALLS)
    faint = (0.9 * red, 0.9 * green, 0.9 * blue)
    wall = Material(
        (red, green, blue), faint, paper, b.between(0.2, 0.5), phase=b.between(0.2, 0.8)
    )
    planes: list[tuple[Vector, Vector]] = [((0, 0, 0), (1, 0, 0)), ((width, 0, 0), (-1, 0, 0))]
    planes += [((0, 0, 0), (0, 0, 1)), ((0, 0, length), (0, 0, -1))]
    for point, normal in planes:
        b.add("wall", InfinitePlane(point, normal), wall)


def _against_a_wall(b: Builder, kind: Callable[[Piece], None], width: float, length: float) -> None:
    """Adds an object in a free place along the left, right or far wall, if it finds one."""
    for _ in range(6):
        side = int(b.random.integers(3))
        along = b.between(1.6, length - 0.9)
        x, z, yaw = (
            (b.between(0.9, width - 0.9), length, pi),
            (0.0, along, pi / 2),
            (width, along, -pi / 2),
        )[side]
        if b.place(x + 0.5 * float(np.sin(yaw)), z + 0.5 * float(np.cos(yaw)), 0.85):
            kind(Piece(b, x, z, yaw))
            return


def _in_the_middle(b: Builder, kind: Callable[[Piece], None], width: float, length: float) -> None:
    """Adds an object in a free place on the floor, if it finds one."""
    for _ in range(6):
        x, z = b.between(0.7, width - 0.7), b.between(1.5, length - 0.8)
        if b.place(x, z, 0.55):
            kind(Piece(b, x, z, b.between(-pi, pi)))
            return


def _on_the_walls(b: Builder, width: float, length: float) -> None:
    """Adds windows, pictures and screens that do not overlap."""
    kinds = (window, picture, picture, tv, None)
    for share in (0.27, 0.73):
        for x, z, yaw in (
            (share * width, length, pi),
            (0.0, 0.6 + share * (length - 0.6), pi / 2),
            (width, 0.6 + share * (length - 0.6), -pi / 2),
        ):
            kind = kinds[int(b.random.integers(len(kinds)))]
            if kind is not None:
                kind(Piece(b, x, z, yaw, b.between(1.2, 1.4)))
