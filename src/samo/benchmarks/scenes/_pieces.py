"""Objects made of several solids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ._materials import Colour, Material
from ._render import Surface
from ._solids import Cuboid, Solid, Sphere, Vector


@dataclass
class Builder:
    """Collects surfaces, and records which parts of the floor are occupied.

    Args:
        random: The source of all random choices.
        classes: The names of the classes, in the order of their labels.
    """

    random: np.random.Generator
    classes: Sequence[str]
    surfaces: list[Surface] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, name: str, solid: Solid, material: Material) -> None:
        """Adds a solid of a class."""
        self.surfaces.append(Surface(solid, self.classes.index(name), material))

    def between(self, low: float, high: float) -> float:
        """Draws a number uniformly from an interval."""
        return float(self.random.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Returns True with a given probability."""
        return bool(self.random.random() < probability)

    def shade(self, colours: Sequence[Colour], spread: float = 0.08) -> Colour:
        """Draws one of several colours, and moves each of its components by up to `spread`."""
        base = colours[int(self.random.integers(len(colours)))]
        moved = np.clip(base + self.random.uniform(-spread, spread, 3), 0.03, 0.97)
        return float(moved[0]), float(moved[1]), float(moved[2])

    def place(self, x: float, z: float, radius: float) -> bool:
        """Occupies a circle of the floor and returns True, or returns False if it is not free."""
        free = all(np.hypot(x - a, z - b) > radius + r for a, b, r in self.taken)
        if free:
            self.taken.append((x, z, radius))
        return free


@dataclass(frozen=True)
class Piece:
    """An object at a position; its parts have coordinates in the object's own frame.

    In this frame, x points along the width, y up from the foot, and z to the front.

    Args:
        builder: Collects the parts.
        x: The position in the scene.
        z: The position in the scene.
        yaw: The direction of its front: the angle from z towards x.
        foot: The height of its foot.
    """

    builder: Builder
    x: float
    z: float
    yaw: float = 0.0
    foot: float = 0.0

    def box(self, name: str, low: Vector, high: Vector, material: Material) -> None:
        """Adds a box of a class between two opposite corners."""
        x, y, z = ((a + b) / 2 for a, b in zip(low, high, strict=True))
        w, h, d = ((b - a) / 2 for a, b in zip(low, high, strict=True))
        self.builder.add(name, Cuboid(self._at(x, y, z), (w, h, d), self.yaw), material)

    def ball(self, name: str, centre: Vector, radius: float, material: Material) -> None:
        """Adds a sphere of a class."""
        self.builder.add(name, Sphere(self._at(*centre), radius), material)

    def on(self, x: float, y: float, z: float, yaw: float = 0.0) -> Piece:
        """Returns another piece at a position (and relative angle) in the frame of this one."""
        at = self._at(x, y, z)
        return Piece(self.builder, at[0], at[2], self.yaw + yaw, at[1])

    def _at(self, x: float, y: float, z: float) -> Vector:
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + c * x + s * z, self.foot + y, self.z - s * x + c * z
