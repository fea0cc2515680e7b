"""Random streets, with the seven classes of Cityscapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np

from ._materials import Colour, Material, Pattern, bricks, grain, panes, stripes, unpatterned
from ._pieces import Builder, Piece
from ._render import Camera, Scene
from ._solids import InfinitePlane

_ASPHALT: tuple[Colour, ...] = ((0.3, 0.3, 0.32), (0.38, 0.37, 0.36))
_FACADES: tuple[Colour, ...] = (
    (0.7, 0.62, 0.5),
    (0.6, 0.4, 0.33),
    (0.65, 0.66, 0.68),
    (0.78, 0.74, 0.66),
)
_GREEN: tuple[Colour, ...] = ((0.22, 0.42, 0.16), (0.32, 0.48, 0.18), (0.18, 0.36, 0.2))
_PAINT: tuple[Colour, ...] = (
    (0.7, 0.1, 0.1),
    (0.12, 0.22, 0.5),
    (0.85, 0.85, 0.86),
    (0.08, 0.08, 0.09),
    (0.5, 0.52, 0.55),
)
_CLOTHES: tuple[Colour, ...] = (
    (0.15, 0.2, 0.4),
    (0.6, 0.2, 0.2),
    (0.85, 0.7, 0.2),
    (0.2, 0.2, 0.2),
)
_SKIN: tuple[Colour, ...] = ((0.85, 0.66, 0.54), (0.5, 0.34, 0.25))
_END = 90.0  # metres


def street(random: np.random.Generator, classes: Sequence[str]) -> Scene:
    """Builds a street: road, pavements, houses, trees, cars and people, under the sky.

    Args:
        random: The source of all random choices.
        classes: The names of the seven classes, in the order of their labels.

    Returns:
        The scene.
    """
    b = Builder(random, classes)
    half, pavement = b.between(3.5, 6.0), b.between(2.0, 4.0)
    asphalt = Material(b.shade(_ASPHALT, 0.04), pattern=grain, size=1.5)
    b.add("flat", InfinitePlane((0, 0, 0), (0, 1, 0)), asphalt)
    _markings(b, half)
    for side in (-1, 1):
        _roadside(b, side, half, pavement)
    for _ in range(int(b.random.integers(1, 5))):
        lane = -1 if b.chance(0.5) else 1
        x, z = lane * half * b.between(0.4, 0.75), b.between(9, 55)
        if b.place(x, z, 2.6):
            car(Piece(b, x, z, pi * (lane < 0) + b.between(-0.05, 0.05)))
    azimuth, height = b.between(-pi, pi), b.between(0.4, 1.2)
    sun = (float(np.sin(azimuth)), height, float(np.cos(azimuth)))
    return Scene(
        tuple(b.surfaces),
        Camera(
            position=(half * b.between(-0.4, 0.6), b.between(1.2, 1.8), 0.0),
            yaw=b.between(-0.15, 0.15),
            pitch=b.between(-0.06, 0.06),
            roll=b.between(-0.02, 0.02),
            focal=b.between(0.8, 1.0),
        ),
        light=(1e4 * sun[0], 1e4 * sun[1], 1e4 * sun[2]),
        brightness=b.between(0.35, 0.75),
        ambient=b.between(0.4, 0.6),
        sky=classes.index("sky"),
        horizon=b.shade([(0.85, 0.88, 0.92), (0.7, 0.72, 0.74)]),
        noise=b.between(0.01, 0.03),
    )


def _markings(b: Builder, half: float) -> None:
    """Adds the lines on the road, which are of its class."""
    white = Material((0.85, 0.85, 0.82))
    middle = Piece(b, 0.0, 0.0)
    for z in np.arange(b.between(2, 6), 60, 7.0):
        middle.box("flat", (-0.07, 0, float(z)), (0.07, 0.005, float(z) + 3), white)
    for side in (-1, 1):
        x = side * (half - 0.3)
        middle.box("flat", (x - 0.06, 0, 0.5), (x + 0.06, 0.005, _END), white)


def _roadside(b: Builder, side: int, half: float, pavement: float) -> None:
    """Adds pavement, houses and gardens, trees, poles and people on one side."""
    # `side` mirrors x, which points away from the road. A rotation would mirror z as well.
    inner, outer = half, half + pavement
    stone = Material(b.shade([(0.55, 0.54, 0.52), (0.6, 0.55, 0.5)]), pattern=bricks, size=0.8)
    left, right = sorted((side * inner, side * 60.0))
    Piece(b, 0, 0).box("flat", (left, 0, -5), (right, 0.14, _END), stone)
    z = b.between(-4, 4)
    while z < _END:
        depth = b.between(7, 16)
        if b.chance(0.7):
            _house(b, side, outer, z, z + depth - b.between(0, 1.5))
        else:
            _garden(b, side, outer, z, z + depth)
        z += depth
    end = Material(b.shade(_FACADES), b.shade([(0.25, 0.3, 0.36)]), panes, 3.0)
    Piece(b, 0, 0).box("construction", (left, 0, _END), (right, b.between(8, 20), _END + 5), end)
    for kind, gap in ((tree, 12.0), (pole, 18.0), (person, 9.0)):
        z = b.between(5, 5 + gap)
        while z < 60:
            x = side * (inner + b.between(0.4, pavement - 0.4))
            if b.place(x, z, 0.5):
                kind(Piece(b, x, z, b.between(-pi, pi), 0.14))
            z += b.between(0.6 * gap, 1.8 * gap)


def _house(b: Builder, side: int, outer: float, near: float, far: float) -> None:
    walls: tuple[Pattern, ...] = (panes, panes, bricks)
    wall = walls[int(b.random.integers(3))]
    second = (0.2, 0.25, 0.32) if wall is panes else (0.75, 0.72, 0.68)
    material = Material(b.shade(_FACADES), second, wall, b.between(2.2, 3.2), b.between(0.2, 0.8))
    left, right = sorted((side * outer, side * (outer + 10)))
    Piece(b, 0, 0).box("construction", (left, 0, near), (right, b.between(5, 18), far), material)


def _garden(b: Builder, side: int, outer: float, near: float, far: float) -> None:
    """Adds a lawn behind a hedge or a fence, with a tree."""
    left, right = sorted((side * outer, side * (outer + 10)))
    lawn = Material(b.shade(_GREEN), pattern=grain, size=0.6)
    Piece(b, 0, 0).box("nature", (left, 0.14, near), (right, 0.18, far), lawn)
    left, right = sorted((side * outer, side * (outer + 0.5)))
    h = b.between(0.8, 1.6)
    if b.chance(0.6):
        hedge = Material(b.shade(_GREEN), pattern=grain, size=0.2)
        Piece(b, 0, 0).box("nature", (left, 0, near), (right, h, far), hedge)
    else:
        fence = Material(b.shade(_FACADES), pattern=stripes, size=0.3)
        Piece(b, 0, 0).box("construction", (left, 0, near), (right, h, far), fence)
    tree(Piece(b, side * (outer + b.between(2, 6)), (near + far) / 2, b.between(-pi, pi), 0.14))


def tree(p: Piece) -> None:
    """Adds a trunk with a crown of three spheres."""
    b = p.builder
    h, r = b.between(2.2, 3.5), b.between(0.9, 1.6)
    bark = Material(b.shade([(0.35, 0.26, 0.18)]), pattern=grain, size=0.2)
    leaves = Material(b.shade(_GREEN), pattern=grain, size=0.3)
    p.box("nature", (-0.13, 0, -0.13), (0.13, h, 0.13), bark)
    p.ball("nature", (0, h + 0.7 * r, 0), r, leaves)
    p.ball("nature", (0.6 * r, h + 0.3 * r, 0.2 * r), 0.7 * r, leaves)
    p.ball("nature", (-0.5 * r, h + 0.4 * r, -0.4 * r), 0.75 * r, leaves)


def pole(p: Piece) -> None:
    """Adds a lamp post, a traffic sign or a traffic light."""
    b = p.builder
    grey = Material(b.shade([(0.4, 0.42, 0.42)]))
    kind = int(b.random.integers(3))
    h = (5.5, 2.6, 3.2)[kind]
    p.box("object", (-0.07, 0, -0.07), (0.07, h, 0.07), grey)
    if kind == 0:
        p.box("object", (-0.1, h, -0.1), (1.2, h + 0.12, 0.1), grey)
    elif kind == 1:
        sign = Material(b.shade([(0.85, 0.1, 0.1), (0.1, 0.25, 0.75), (0.95, 0.8, 0.1)]), gloss=0.1)
        p.on(0, h, 0, -p.yaw).box("object", (-0.4, -0.1, -0.1), (0.4, 0.7, -0.07), sign)
    else:
        dark = Material((0.1, 0.12, 0.1))
        p.on(0, h, 0, -p.yaw).box("object", (-0.16, -0.2, -0.18), (0.16, 0.7, 0.12), dark)
        lights: tuple[Colour, ...] = ((0.2, 0.9, 0.3), (0.95, 0.75, 0.1), (0.95, 0.15, 0.1))
        lit = int(b.random.integers(3))
        lamp = Material(lights[lit], pattern=unpatterned, glow=0.8)
        p.on(0, h + 0.0 + 0.24 * lit, 0, -p.yaw).ball("object", (0, 0, -0.15), 0.1, lamp)


def person(p: Piece) -> None:
    """Adds a person who stands or walks."""
    b = p.builder
    size = b.between(0.85, 1.08)
    trousers, coat = Material(b.shade(_CLOTHES)), Material(b.shade(_CLOTHES))
    stride = b.between(0, 0.2)
    for side, step in ((-1, stride), (1, -stride)):
        x = 0.09 * side
        p.box("human", (x - 0.08, 0, step - 0.09), (x + 0.08, 0.82 * size, step + 0.09), trousers)
        x = 0.28 * side
        p.box("human", (x - 0.06, 0.75 * size, -0.07), (x + 0.06, 1.4 * size, 0.07), coat)
    p.box("human", (-0.22, 0.8 * size, -0.13), (0.22, 1.45 * size, 0.13), coat)
    p.ball("human", (0, 1.6 * size, 0), 0.14, Material(b.shade(_SKIN)))


def car(p: Piece) -> None:
    """Adds a car, a van or a bus."""
    b = p.builder
    paint = Material(b.shade(_PAINT), gloss=0.35)
    glass = Material((0.12, 0.15, 0.18), gloss=0.5)
    kind = int(b.random.integers(4))
    if kind < 2:
        w, length, h = 0.88, b.between(1.9, 2.3), b.between(0.8, 0.95)
        p.box("vehicle", (-w, 0.25, -length), (w, h, length), paint)
        p.box("vehicle", (-0.9 * w, h, -0.75 * length), (0.9 * w, h + 0.5, 0.4 * length), glass)
        p.box(
            "vehicle",
            (-0.88 * w, h + 0.5, -0.7 * length),
            (0.88 * w, h + 0.56, 0.35 * length),
            paint,
        )
    else:
        w, length, h = (0.98, 2.6, 2.2) if kind == 2 else (1.25, 5.5, 3.0)
        p.box("vehicle", (-w, 0.3, -length), (w, h, length), paint)
        p.box(
            "vehicle",
            (-w - 0.01, 0.55 * h, -0.9 * length),
            (w + 0.01, 0.85 * h, length + 0.01),
            glass,
        )
    for x in (-w + 0.06, w - 0.06):
        for z in (-0.62 * length, 0.62 * length):
            p.ball("vehicle", (x, 0.33, z), 0.33, Material((0.07, 0.07, 0.07)))
    lamps = Material((0.9, 0.2, 0.15), glow=0.3)
    for x in (-0.7 * w, 0.7 * w):
        p.box("vehicle", (x - 0.12, 0.6, -length - 0.02), (x + 0.12, 0.72, -length), lamps)
