"""Furniture and objects on the walls of a room.

Each function adds one object in the frame of a piece, in which z = 0 is the back of an object at a
wall, and the middle of a free-standing object.
"""

from __future__ import annotations

from ._materials import Colour, Material, grain, planks, spines, stripes, unpatterned
from ._pieces import Builder, Piece

_WOOD: tuple[Colour, ...] = ((0.5, 0.33, 0.18), (0.36, 0.22, 0.12), (0.68, 0.52, 0.34))
_FABRIC: tuple[Colour, ...] = (
    (0.55, 0.2, 0.18),
    (0.2, 0.3, 0.5),
    (0.25, 0.42, 0.28),
    (0.45, 0.42, 0.4),
)
_LINEN: tuple[Colour, ...] = ((0.85, 0.84, 0.88), (0.6, 0.68, 0.85), (0.85, 0.68, 0.68))
_BRIGHT: tuple[Colour, ...] = (
    (0.9, 0.25, 0.15),
    (0.95, 0.75, 0.15),
    (0.15, 0.6, 0.75),
    (0.4, 0.75, 0.3),
    (0.75, 0.3, 0.7),
)


def _wood(b: Builder) -> Material:
    return Material(
        b.shade(_WOOD), pattern=planks, size=b.between(0.3, 0.6), phase=b.between(0.2, 0.8)
    )


def bed(p: Piece) -> None:
    """Adds a mattress with pillows, between boards, its head at the wall."""
    b = p.builder
    w, length, h = b.between(0.55, 0.9), b.between(1.85, 2.1), b.between(0.42, 0.6)
    wood = _wood(b)
    linen = b.shade(_LINEN)
    cover = Material(
        linen, pattern=stripes if b.chance(0.3) else unpatterned, size=b.between(0.1, 0.3)
    )
    p.box("bed", (-w, 0, 0.05), (w, 0.22, length), wood)
    p.box("bed", (-w + 0.02, 0.22, 0.06), (w - 0.02, h, length - 0.02), cover)
    p.box("bed", (-w, 0, 0), (w, h + b.between(0.3, 0.6), 0.05), wood)
    pillow = Material(b.shade([(0.92, 0.92, 0.92)], 0.05))
    for side in (-1, 1):
        x = side * w / 2
        p.box("bed", (x - 0.8 * w / 2, h, 0.1), (x + 0.8 * w / 2, h + 0.12, 0.5), pillow)


def sofa(p: Piece) -> None:
    """Adds a seat with back, arms and cushions."""
    b = p.builder
    w, h = b.between(0.7, 1.05), b.between(0.38, 0.46)
    cloth = Material(b.shade(_FABRIC), pattern=grain, size=0.25)
    p.box("sofa", (-w, 0.06, 0.02), (w, h, 0.9), cloth)
    p.box("sofa", (-w, h, 0.02), (w, h + b.between(0.35, 0.5), 0.24), cloth)
    for side in (-1, 1):
        inner, outer = sorted((side * (w - 0.18), side * (w + 0.02)))
        p.box("sofa", (inner, 0, 0.02), (outer, h + 0.2, 0.92), cloth)
    if b.chance(0.6):
        cushion = Material(b.shade(_BRIGHT))
        p.on(b.between(-0.4, 0.4), h, 0.36).box(
            "sofa", (-0.2, 0, -0.08), (0.2, 0.38, 0.08), cushion
        )


def furniture(p: Piece) -> None:
    """Adds a wardrobe, a chest of drawers, or a shelf with books."""
    b = p.builder
    wood = _wood(b)
    w, d = b.between(0.4, 0.7), b.between(0.38, 0.55)
    kind = int(b.random.integers(3))
    if kind == 0:
        p.box("furniture", (-w, 0, 0.01), (w, b.between(1.7, 2.1), d), wood)
    elif kind == 1:
        h = b.between(0.7, 1.1)
        p.box("furniture", (-w, 0, 0.01), (w, h, d), wood)
        if b.chance(0.4):
            _screen(p.on(0, h + 0.03, d / 2), b.between(0.28, 0.4))
        else:
            small(p.on(b.between(-w / 2, w / 2), h, d / 2))
            books(p.on(b.between(-w / 2, w / 2), h, d / 2, b.between(-0.5, 0.5)))
    else:
        boards = int(b.random.integers(3, 5))
        p.box("furniture", (-w, 0, 0.01), (w, 0.42 * boards, 0.05), wood)
        for side in (-w, w - 0.03):
            p.box("furniture", (side, 0, 0.05), (side + 0.03, 0.42 * boards, 0.32), wood)
        for i in range(boards + 1):
            y = 0.42 * i
            p.box("furniture", (-w, y, 0.05), (w, y + 0.03, 0.32), wood)
            if i < boards:
                end, row, top = w - b.between(0.05, 0.5), _spines(b), y + b.between(0.25, 0.34)
                p.box("books", (-w + 0.04, y + 0.03, 0.06), (end, top, 0.26), row)


def _spines(b: Builder) -> Material:
    return Material(
        b.shade(_BRIGHT, 0.15), b.shade(_FABRIC), spines, 0.045, phase=b.between(0.2, 0.8)
    )


def table(p: Piece) -> None:
    """Adds a table on four legs, with objects on it."""
    b = p.builder
    wood = _wood(b)
    w, d, h = b.between(0.4, 0.65), b.between(0.35, 0.5), b.between(0.45, 0.75)
    p.box("table", (-w, h - 0.05, -d), (w, h, d), wood)
    for x in (-w + 0.05, w - 0.05):
        for z in (-d + 0.05, d - 0.05):
            p.box("table", (x - 0.03, 0, z - 0.03), (x + 0.03, h - 0.05, z + 0.03), wood)
    if b.chance(0.7):
        small(p.on(b.between(-w / 2, 0), h, b.between(-d / 2, d / 2)))
    if b.chance(0.7):
        books(p.on(b.between(0, w / 2), h, b.between(-d / 2, d / 2), b.between(-1.5, 1.5)))


def chair(p: Piece) -> None:
    """Adds a seat with a back, on four legs."""
    b = p.builder
    frame = Material(b.shade([(0.2, 0.18, 0.17), (0.7, 0.6, 0.45), (0.8, 0.8, 0.78)]))
    seat = Material(b.shade(_FABRIC)) if b.chance(0.5) else frame
    p.box("chair", (-0.22, 0.42, -0.22), (0.22, 0.48, 0.22), seat)
    p.box("chair", (-0.22, 0.55, -0.22), (0.22, b.between(0.85, 1.0), -0.18), seat)
    for x in (-0.2, 0.2):
        for z in (-0.2, 0.2):
            top = 0.9 if z < 0 else 0.42
            p.box("chair", (x - 0.02, 0, z - 0.02), (x + 0.02, top, z + 0.02), frame)


def books(p: Piece) -> None:
    """Adds a pile of books."""
    b = p.builder
    y = 0.0
    for _ in range(int(b.random.integers(2, 5))):
        top = y + b.between(0.03, 0.06)
        cover = Material(b.shade(_BRIGHT, 0.15), pattern=unpatterned)
        book = p.on(0, 0, 0, b.between(-0.3, 0.3))
        book.box("books", (-0.12, y, -0.09), (0.12, top, 0.09), cover)
        y = top


def small(p: Piece) -> None:
    """Adds a ball, a box, or a lamp with a glowing globe."""
    b = p.builder
    kind = int(b.random.integers(3))
    if kind == 0:
        r = b.between(0.08, 0.16)
        p.ball("objects", (0, r, 0), r, Material(b.shade(_BRIGHT), gloss=0.4))
    elif kind == 1:
        w, h = b.between(0.06, 0.14), b.between(0.1, 0.3)
        p.box("objects", (-w, 0, -w), (w, h, w), Material(b.shade(_BRIGHT), gloss=0.1))
    else:
        stand = Material(b.shade([(0.3, 0.3, 0.3)]))
        p.box("objects", (-0.02, 0, -0.02), (0.02, 0.25, 0.02), stand)
        p.ball("objects", (0, 0.36, 0), 0.12, Material((0.98, 0.92, 0.7), glow=0.6))


def things(p: Piece) -> None:
    """Adds balls, boxes and bags on the floor."""
    b = p.builder
    for _ in range(int(b.random.integers(1, 4))):
        at = p.on(b.between(-0.35, 0.35), 0, b.between(-0.35, 0.35), b.between(-1.5, 1.5))
        if b.chance(0.5):
            r = b.between(0.1, 0.25)
            at.ball("objects", (0, r, 0), r, Material(b.shade(_BRIGHT), gloss=0.3))
        else:
            w, h = b.between(0.1, 0.22), b.between(0.12, 0.4)
            at.box("objects", (-w, 0, -w), (w, h, w), Material(b.shade(_BRIGHT)))


def _screen(p: Piece, h: float) -> None:
    dark = Material(p.builder.shade([(0.06, 0.06, 0.08)], 0.03), gloss=0.5)
    p.box("tv", (-0.9 * h * 16 / 9, 0, -0.03), (0.9 * h * 16 / 9, 1.8 * h, 0.03), dark)


def tv(p: Piece) -> None:
    """Adds a flat screen on the wall."""
    _screen(p.on(0, -0.2, 0.05), p.builder.between(0.25, 0.4))


def picture(p: Piece) -> None:
    """Adds a painting in a frame."""
    b = p.builder
    w, h = b.between(0.2, 0.5), b.between(0.3, 0.7)
    frame = Material(b.shade(_WOOD))
    canvas = Material(b.shade(_BRIGHT), b.shade(_FABRIC), grain, b.between(0.1, 0.3))
    p.box("picture", (-w, 0, 0), (w, h, 0.025), frame)
    p.box("picture", (-w + 0.04, 0.04, 0.02), (w - 0.04, h - 0.04, 0.03), canvas)


def window(p: Piece) -> None:
    """Adds a window with two panes and daylight behind them."""
    b = p.builder
    w, low, high = b.between(0.4, 0.75), b.between(-0.4, -0.1), b.between(0.75, 0.95)
    frame = Material(b.shade([(0.9, 0.9, 0.88), (0.45, 0.3, 0.2)], 0.04))
    day = Material(b.shade([(0.75, 0.85, 0.98)], 0.05), (0.55, 0.7, 0.9), grain, 1.2, glow=0.6)
    p.box("window", (-w, low, 0), (w, high, 0.03), frame)
    for x in (-w + 0.05, 0.025):
        p.box("window", (x, low + 0.05, 0.01), (x + w - 0.075, high - 0.05, 0.04), day)
